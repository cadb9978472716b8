//! How fast and how far: from what metrics ask for to what is done. Pure but for what it remembers.
//!
//! Three things stand between: the stabilization window (a step is the most cautious of those asked
//! for lately), the rate (policies: so many Pods or percent in a period), and the bounds.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// Without a behaviour: no more than double in one step, but always up to this.
const UP_FACTOR: i32 = 2;
const UP_MINIMUM: i32 = 4;

/// What an autoscaler remembers. It is lost with the process, and starts with what there is then.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// What metrics asked for, before anything was done about it.
    recommendations: Vec<(Timestamp, i32)>,
    /// By how much it went up, and down.
    ups: Vec<(Timestamp, i32)>,
    downs: Vec<(Timestamp, i32)>,
}

/// What is to be done, and two conditions' worth of why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub replicas: i32,
    pub able: Reason,
    pub limited: bool,
    pub limit: Reason,
}

/// A condition's reason and message.
pub(super) type Reason = (&'static str, &'static str);

const READY: Reason = ("ReadyForNewScale", "recommended size matches current size");
const DOWN_STABILIZED: Reason = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent \
     recommendation",
);
const UP_STABILIZED: Reason = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const WITHIN: Reason = ("DesiredWithinRange", "the desired count is within the acceptable range");
const UP_LIMIT: Reason =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: Reason = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);
const TOO_MANY: Reason =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Reason =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");

/// What a decision starts from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub current: i32,
    /// What metrics ask for.
    pub desired: i32,
    pub min: i32,
    pub max: i32,
    pub behavior: Option<&'a HorizontalPodAutoscalerBehavior>,
    /// How long a higher recommendation holds off a step down, unless the behaviour says.
    pub down_window: SignedDuration,
    pub now: Timestamp,
}

impl History {
    /// Takes the number of replicas that an autoscaler finds as its first recommendation.
    pub fn begin(&mut self, replicas: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, replicas));
        }
    }

    /// Decides, and remembers what was asked for.
    pub fn decide(&mut self, question: &Question<'_>) -> Decision {
        match question.behavior {
            None => self.decide_plainly(question),
            Some(behavior) => self.decide_by(behavior, question),
        }
    }

    fn decide_plainly(&mut self, question: &Question<'_>) -> Decision {
        let Question { current, desired, min, max, now, .. } = *question;
        let cutoff = before(now, question.down_window);
        self.recommendations.retain(|(at, _)| *at >= cutoff);
        let lately = self.recommendations.iter().map(|(_, replicas)| *replicas).max();
        let stable = lately.map_or(desired, |lately| lately.max(desired));
        self.recommendations.push((now, desired));

        let rate = current.saturating_mul(UP_FACTOR).max(UP_MINIMUM);
        let (ceiling, over) = if max > rate { (rate, UP_LIMIT) } else { (max, TOO_MANY) };
        let (replicas, limit) = if stable < min {
            (min, TOO_FEW)
        } else if stable > ceiling {
            (ceiling, over)
        } else {
            (stable, WITHIN)
        };
        let able = if stable == desired { READY } else { DOWN_STABILIZED };
        Decision { replicas, able, limited: replicas != stable, limit }
    }

    fn decide_by(
        &mut self,
        behavior: &HorizontalPodAutoscalerBehavior,
        question: &Question<'_>,
    ) -> Decision {
        let Question { current, desired, min, max, now, .. } = *question;
        let (up, down) = (Rules::up(behavior), Rules::down(behavior, question.down_window));
        let stable = self.stabilize(current, desired, up.window, down.window, now);
        let able = match (stable == desired, desired >= current) {
            (true, _) => READY,
            (false, true) => UP_STABILIZED,
            (false, false) => DOWN_STABILIZED,
        };
        let (replicas, limit) = if stable > current {
            let rate = self.highest(current, &up, now).max(current);
            let (ceiling, over) = if max > rate { (rate, UP_LIMIT) } else { (max, TOO_MANY) };
            if stable > ceiling { (ceiling, over) } else { (stable, WITHIN) }
        } else if stable < current {
            let rate = self.lowest(current, &down, now).min(current);
            let (floor, under) = if min < rate { (rate, DOWN_LIMIT) } else { (min, TOO_FEW) };
            if stable < floor { (floor, under) } else { (stable, WITHIN) }
        } else {
            (stable, WITHIN)
        };
        Decision { replicas, able, limited: replicas != stable, limit }
    }

    /// Up only to the least that was asked for in the window of the way up, down only to the most in
    /// that of the way down.
    fn stabilize(
        &mut self,
        current: i32,
        desired: i32,
        up: SignedDuration,
        down: SignedDuration,
        now: Timestamp,
    ) -> i32 {
        let within = |window| {
            let cutoff = before(now, window);
            let recent = self.recommendations.iter().filter(move |(at, _)| *at > cutoff);
            recent.map(|(_, replicas)| *replicas).chain([desired])
        };
        let least = within(up).min().unwrap_or(desired);
        let most = within(down).max().unwrap_or(desired);
        let stable = current.max(least).min(most);
        let oldest = before(now, up).min(before(now, down));
        self.recommendations.retain(|(at, _)| *at >= oldest);
        self.recommendations.push((now, desired));
        stable
    }

    /// Remembers a step that was made.
    pub fn stepped(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        from: i32,
        to: i32,
        now: Timestamp,
    ) {
        let Some(behavior) = behavior else { return };
        let rules = [behavior.scale_up.as_ref(), behavior.scale_down.as_ref()];
        let policies =
            rules.into_iter().flatten().flat_map(|rules| rules.policies.iter().flatten());
        let longest = policies.map(|policy| policy.period_seconds).max().unwrap_or(0);
        let cutoff = before(now, SignedDuration::from_secs(longest.into()));
        for steps in [&mut self.ups, &mut self.downs] {
            steps.retain(|(at, _)| *at > cutoff);
        }
        match to > from {
            true => self.ups.push((now, to - from)),
            false => self.downs.push((now, from - to)),
        }
    }

    /// How many replicas there were when a period began that ends now.
    fn at_start(&self, current: i32, period_seconds: i32, now: Timestamp) -> i32 {
        let cutoff = before(now, SignedDuration::from_secs(period_seconds.into()));
        let sum = |steps: &[(Timestamp, i32)]| {
            let recent = steps.iter().filter(|(at, _)| *at > cutoff);
            recent.map(|(_, replicas)| *replicas).sum::<i32>()
        };
        current - sum(&self.ups) + sum(&self.downs)
    }

    fn highest(&self, current: i32, rules: &Rules<'_>, now: Timestamp) -> i32 {
        let proposals = rules.policies().map(|(kind, value, period)| {
            let start = self.at_start(current, period, now);
            match kind {
                // Rounded up, or a small percentage of few would never lead anywhere.
                "Percent" => (f64::from(start) * (1.0 + f64::from(value) / 100.0)).ceil() as i32,
                _ => start.saturating_add(value),
            }
        });
        match rules.select {
            Select::Disabled => current,
            Select::Least => proposals.min().unwrap_or(i32::MAX),
            Select::Most => proposals.max().unwrap_or(i32::MIN),
        }
    }

    fn lowest(&self, current: i32, rules: &Rules<'_>, now: Timestamp) -> i32 {
        let proposals = rules.policies().map(|(kind, value, period)| {
            let start = self.at_start(current, period, now);
            match kind {
                "Percent" => (f64::from(start) * (1.0 - f64::from(value) / 100.0)) as i32,
                _ => start.saturating_sub(value),
            }
        });
        match rules.select {
            Select::Disabled => current,
            Select::Least => proposals.max().unwrap_or(i32::MIN),
            Select::Most => proposals.min().unwrap_or(i32::MAX),
        }
    }
}

/// Which of several policies counts: the one that changes most or least, or no change at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Select {
    Most,
    Least,
    Disabled,
}

/// The rules of one direction.
struct Rules<'a> {
    rules: Option<&'a HPAScalingRules>,
    select: Select,
    window: SignedDuration,
}

impl<'a> Rules<'a> {
    fn up(behavior: &'a HorizontalPodAutoscalerBehavior) -> Self {
        Self::of(behavior.scale_up.as_ref(), SignedDuration::ZERO)
    }

    fn down(behavior: &'a HorizontalPodAutoscalerBehavior, window: SignedDuration) -> Self {
        Self::of(behavior.scale_down.as_ref(), window)
    }

    fn of(rules: Option<&'a HPAScalingRules>, window: SignedDuration) -> Self {
        let select = match rules.and_then(|rules| rules.select_policy.as_deref()) {
            Some("Disabled") => Select::Disabled,
            Some("Min") => Select::Least,
            _ => Select::Most,
        };
        let seconds = rules.and_then(|rules| rules.stabilization_window_seconds);
        let window = seconds.map_or(window, |seconds| SignedDuration::from_secs(seconds.into()));
        Self { rules, select, window }
    }

    fn policies(&self) -> impl Iterator<Item = (&'a str, i32, i32)> {
        let policies = self.rules.into_iter().flat_map(|rules| rules.policies.iter().flatten());
        policies.map(|policy| (policy.type_.as_str(), policy.value, policy.period_seconds))
    }
}

fn before(now: Timestamp, duration: SignedDuration) -> Timestamp {
    now.checked_sub(duration).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests;
