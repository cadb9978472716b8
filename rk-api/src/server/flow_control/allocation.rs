//! How many seats each priority level has at the moment: levels lend what they do not use and borrow
//! what others lend (KEP-1040, "Dispatching").

/// What decides about a level's seats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Claim {
    /// Whether it is never limited. It is given what it uses; the others share the rest.
    pub exempt: bool,
    /// Its seats if nobody lent or borrowed any.
    pub nominal: u32,
    /// Those that it does not lend.
    pub min: u32,
    /// The most that it may have.
    pub max: u32,
    /// The most that it could use lately.
    pub high_watermark: u32,
    /// What it is likely to use.
    pub smoothed: f64,
}

impl Claim {
    /// What it has in any case: what it used lately, but not what it would have to borrow.
    fn floor(&self) -> u32 {
        match self.exempt {
            true => self.min.max(self.high_watermark),
            false => self.min.max(self.nominal.min(self.high_watermark)),
        }
    }
}

/// The seats of each level, and the fraction of their target that limited levels get where no bound
/// holds them (0 if there is none).
pub(super) fn allocate(claims: &[Claim]) -> (Vec<u32>, f64) {
    let total: i64 = claims.iter().map(|claim| i64::from(claim.nominal)).sum();
    let sum = |of: fn(&Claim) -> u32, exempt: bool| {
        let claims = claims.iter().filter(|claim| claim.exempt == exempt);
        claims.map(|claim| i64::from(of(claim))).sum::<i64>()
    };
    let left = total - sum(Claim::floor, true);
    let (mins, floors) = (sum(|claim| claim.min, false), sum(Claim::floor, false));
    if left <= mins {
        let seats = |claim: &Claim| if claim.exempt { claim.floor() } else { claim.min };
        return (claims.iter().map(seats).collect(), 0.0);
    }
    if left <= floors {
        let fraction = (left - mins) as f64 / (floors - mins) as f64;
        let seats = |claim: &Claim| match claim.exempt {
            true => claim.floor(),
            false => claim.min + (f64::from(claim.floor() - claim.min) * fraction).round() as u32,
        };
        return (claims.iter().map(seats).collect(), 0.0);
    }
    let fraction = fair_fraction(claims, left as f64);
    let seats = |claim: &Claim| match claim.exempt {
        true => claim.floor(),
        false => fitted(claim, fraction).round() as u32,
    };
    (claims.iter().map(seats).collect(), fraction)
}

/// A fraction of what a level is likely to use, within its bounds.
fn fitted(claim: &Claim, fraction: f64) -> f64 {
    let floor = f64::from(claim.floor());
    (target(claim) * fraction).clamp(floor, f64::from(claim.max).max(floor))
}

/// What a level is likely to use; never zero, so that all seats can be given away.
fn target(claim: &Claim) -> f64 {
    f64::from(claim.floor()).max(claim.smoothed).max(0.001)
}

/// The fraction at which the limited levels have all seats there are. What they have grows with it
/// from their floors, which fit, to their bounds, which may not reach so far: then it is the
/// fraction at which all are at their bounds.
fn fair_fraction(claims: &[Claim], seats: f64) -> f64 {
    let limited = || claims.iter().filter(|claim| !claim.exempt);
    let used = |fraction: f64| limited().map(|claim| fitted(claim, fraction)).sum::<f64>();
    let mut high =
        limited().map(|claim| f64::from(claim.max) / target(claim)).fold(0.0_f64, f64::max);
    if used(high) <= seats {
        return high;
    }
    let mut low = 0.0;
    // Between two neighbouring numbers there is none: it ends.
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if used(middle) < seats { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limited(nominal: u32, min: u32, max: u32, high_watermark: u32, smoothed: f64) -> Claim {
        Claim { exempt: false, nominal, min, max, high_watermark, smoothed }
    }

    #[test]
    fn idle_levels_lend_and_busy_ones_borrow() {
        let idle = limited(100, 10, 700, 0, 0.0);
        let busy = limited(100, 50, 700, 400, 400.0);
        assert_eq!(allocate(&[idle, busy]).0, [10, 190]);
    }

    #[test]
    fn nobody_borrows_more_than_it_may() {
        let idle = limited(100, 10, 700, 0, 0.0);
        let busy = limited(100, 50, 120, 400, 400.0);
        assert_eq!(allocate(&[idle, busy]).0, [80, 120]);
    }

    #[test]
    fn who_lent_gets_its_seats_back_when_it_uses_them() {
        let one = limited(100, 10, 700, 100, 100.0);
        let other = limited(100, 50, 700, 400, 400.0);
        assert_eq!(allocate(&[one, other]).0, [100, 100]);
    }

    #[test]
    fn exempt_requests_take_what_they_use() {
        let exempt = Claim {
            exempt: true,
            nominal: 0,
            min: 0,
            max: 600,
            high_watermark: 60,
            smoothed: 60.0,
        };
        let one = limited(100, 20, 700, 100, 100.0);
        assert_eq!(allocate(&[exempt, one]).0, [60, 40]);
        let all = Claim { high_watermark: 500, ..exempt };
        assert_eq!(allocate(&[all, one]).0, [500, 20], "the others keep what they do not lend");
    }

    proptest! {
        #[test]
        fn all_seats_are_given_and_no_bound_is_broken(
            levels in proptest::collection::vec((1_u32..200, 0_u32..=100, 0_u32..300, 0_u32..400, 0.0..400.0_f64), 1..8)
        ) {
            let claims: Vec<Claim> = levels.into_iter().map(|(nominal, lendable, borrowed, high, smoothed)| {
                limited(nominal, nominal - nominal * lendable / 100, nominal + borrowed, high, smoothed)
            }).collect();
            let (seats, _) = allocate(&claims);
            let total: u32 = claims.iter().map(|claim| claim.nominal).sum();
            let given: u32 = seats.iter().sum();
            // Each level's seats are rounded on their own.
            prop_assert!(given.abs_diff(total) as usize <= claims.len(), "{given} of {total}");
            for (claim, seats) in claims.iter().zip(&seats) {
                prop_assert!((claim.floor()..=claim.max).contains(seats), "{claim:?} {seats}");
            }
        }
    }
}
