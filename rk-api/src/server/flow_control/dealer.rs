//! Shuffle sharding: which queues a flow may use (KEP-1040).
//!
//! A flow's hash deals it a hand of queues. Two flows rarely have the same hand, so a heavy flow
//! that fills the queues of its hand leaves most others a queue of theirs.

/// The most queues of a hand: more would need more bits than a hash has.
const HAND_MAX: usize = 15;

/// Queues that a flow may use, by index.
pub(super) type Hand = smallvec::SmallVec<[usize; HAND_MAX]>;

/// Deals hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dealer {
    deck: usize,
    hand: usize,
}

impl Dealer {
    /// Deals `hand` of `deck` queues, brought into the range that makes sense: validation of the
    /// objects that say so refuses others.
    pub(super) fn new(deck: usize, hand: usize) -> Self {
        let deck = deck.max(1);
        Self { deck, hand: hand.clamp(1, deck.min(HAND_MAX)) }
    }

    /// How many queues there are.
    pub(super) fn deck(self) -> usize {
        self.deck
    }

    /// The hand of a hash: all its queues differ.
    pub(super) fn deal(self, mut hash: u64) -> Hand {
        let mut picks = Hand::new();
        for dealt in 0..self.hand {
            let left = (self.deck - dealt) as u64;
            picks.push((hash % left) as usize);
            hash /= left;
        }
        // A pick counts the cards that are left. Later picks skip those dealt before them.
        let mut hand = Hand::new();
        for (at, pick) in picks.iter().enumerate() {
            let mut card = *pick;
            for earlier in picks[..at].iter().rev() {
                if card >= *earlier {
                    card += 1;
                }
            }
            hand.push(card);
        }
        hand
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_queues_of_a_hand_differ(deck in 1_usize..200, hand in 1_usize..10, hash: u64) {
            let dealer = Dealer::new(deck, hand);
            let mut dealt = dealer.deal(hash);
            prop_assert!(dealt.iter().all(|card| *card < deck));
            dealt.sort();
            dealt.dedup();
            prop_assert_eq!(dealt.len(), hand.min(deck));
        }
    }

    #[test]
    fn every_hand_is_dealt_equally_often() {
        let dealer = Dealer::new(5, 3);
        let mut count = std::collections::BTreeMap::new();
        for hash in 0..600_u64 {
            *count.entry(dealer.deal(hash).to_vec()).or_insert(0) += 1;
        }
        assert_eq!(count.len(), 60);
        assert!(count.values().all(|times| *times == 10));
    }
}
