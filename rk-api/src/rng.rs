//! Chance that a caller can seed: UIDs, generated names, jitter, tie-breaks.
//!
//! The functions draw from a source of the current thread. It is seeded by the operating system
//! until the thread calls [`seed`]; a simulation on a current-thread runtime does so once and is
//! then repeatable. Code that is handed an [`Rng`] draws from that instead.
//!
//! None of this is for secrets: keys and tokens come from the cryptographic library.

use std::{
    cell::RefCell,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// What generated names end in: no vowels, so no words, and no `0`, `1`, `3`, which look like
/// letters. It is the alphabet of apimachinery's `rand.String`.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

thread_local! {
    static SOURCE: RefCell<Rng> = RefCell::new(Rng::from_os());
}

/// A source of pseudo-random numbers (xoshiro256++).
#[derive(Clone, Debug)]
pub struct Rng([u64; 4]);

impl Rng {
    /// The source that `seed` always gives.
    pub fn seeded(seed: u64) -> Self {
        let mut state = seed;
        // SplitMix64, which xoshiro's authors recommend to fill its state.
        Self(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }

    /// A source that the operating system seeded: different in every process and thread.
    pub fn from_os() -> Self {
        // Each `RandomState` is keyed from the operating system's entropy.
        let keys = RandomState::new();
        Self([keys.hash_one(1), keys.hash_one(2), keys.hash_one(3), keys.hash_one(4) | 1])
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `bound`, each as likely as the others; 0 for a `bound` of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of a 128-bit product: its bias is below 2^-32 for the bounds used here.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from 0 up to and without 1.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A random UUID (RFC 9562, version 4).
    pub fn uuid(&mut self) -> String {
        let bits = (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64());
        let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
        // Dashes stand before these digits.
        const DASHES: [u32; 4] = [8, 12, 16, 20];
        let mut out = String::with_capacity(36);
        for digit in 0..32 {
            if DASHES.contains(&digit) {
                out.push('-');
            }
            let value = (bits >> (124 - 4 * digit)) as usize & 0xf;
            out.push(char::from(b"0123456789abcdef"[value]));
        }
        out
    }

    /// `length` characters to end a generated name with.
    pub fn suffix(&mut self, length: usize) -> String {
        (0..length).map(|_| ALPHABET[self.below(ALPHABET.len() as u64) as usize] as char).collect()
    }

    /// `duration` lengthened by up to `max_factor` of itself, as `wait.Jitter` does.
    pub fn jitter(&mut self, duration: Duration, max_factor: f64) -> Duration {
        duration + duration.mul_f64((self.unit() * max_factor).max(0.0))
    }
}

/// Makes the current thread's draws repeatable.
pub fn seed(seed: u64) {
    SOURCE.with_borrow_mut(|source| *source = Rng::seeded(seed));
}

/// A source of its own, seeded by a draw from the current thread's.
pub fn fork() -> Rng {
    Rng::seeded(next_u64())
}

/// 64 random bits.
pub fn next_u64() -> u64 {
    SOURCE.with_borrow_mut(Rng::next_u64)
}

/// See [`Rng::below`].
pub fn below(bound: u64) -> u64 {
    SOURCE.with_borrow_mut(|source| source.below(bound))
}

/// A random UUID, as UIDs are.
pub fn uuid() -> String {
    SOURCE.with_borrow_mut(Rng::uuid)
}

/// `length` characters to end a generated name with.
pub fn suffix(length: usize) -> String {
    SOURCE.with_borrow_mut(|source| source.suffix(length))
}

/// See [`Rng::jitter`].
pub fn jitter(duration: Duration, max_factor: f64) -> Duration {
    SOURCE.with_borrow_mut(|source| source.jitter(duration, max_factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let draw = |n| {
            seed(n);
            (uuid(), suffix(5), below(1000))
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn a_uuid_is_of_version_4() {
        let mut rng = Rng::seeded(1);
        for _ in 0..100 {
            let uuid = rng.uuid();
            let parts: Vec<_> = uuid.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{uuid}");
            assert_eq!(&uuid[14..15], "4");
            assert!("89ab".contains(&uuid[19..20]), "{uuid}");
        }
    }

    #[test]
    fn draws_stay_in_range_and_reach_all_of_it() {
        let mut rng = Rng::seeded(2);
        let mut seen = [false; 27];
        for _ in 0..1000 {
            seen[rng.below(27) as usize] = true;
            let jittered = rng.jitter(Duration::from_secs(10), 0.5);
            assert!((10.0..15.0).contains(&jittered.as_secs_f64()));
        }
        assert!(seen.iter().all(|seen| *seen));
        assert_eq!(rng.below(0), 0);
    }
}
