use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn behavior(up: Value, down: Value) -> HorizontalPodAutoscalerBehavior {
    serde_json::from_value(json!({"scaleUp": up, "scaleDown": down})).unwrap()
}

fn policy(kind: &str, value: i32, period: i32) -> Value {
    json!({"type": kind, "value": value, "periodSeconds": period})
}

/// An autoscaler between 1 and 1000 replicas, as a script would drive it.
struct Script {
    history: History,
    behavior: Option<HorizontalPodAutoscalerBehavior>,
    current: i32,
    now: i64,
}

impl Script {
    fn new(behavior: Option<HorizontalPodAutoscalerBehavior>, current: i32) -> Self {
        Self { history: History::default(), behavior, current, now: 0 }
    }

    fn decide(&mut self, desired: i32) -> Decision {
        let question = Question {
            current: self.current,
            desired,
            min: 1,
            max: 1000,
            behavior: self.behavior.as_ref(),
            down_window: SignedDuration::from_secs(300),
            now: at(self.now),
        };
        self.history.decide(&question)
    }

    /// One look, after some time: where metrics ask for `desired` this many are there afterwards.
    fn look(&mut self, after: i64, desired: i32) -> i32 {
        self.now += after;
        let decision = self.decide(desired);
        if decision.replicas != self.current {
            let behavior = self.behavior.as_ref();
            self.history.stepped(behavior, self.current, decision.replicas, at(self.now));
            self.current = decision.replicas;
        }
        self.current
    }
}

#[test]
fn without_a_behavior_it_doubles_at_most_and_goes_down_after_five_minutes() {
    let mut script = Script::new(None, 1);
    script.history.begin(1, at(0));
    assert_eq!(script.look(0, 100), 4);
    assert_eq!(script.look(15, 100), 8);
    assert_eq!(script.look(15, 10), 16, "the highest recommendation counts on the way up too");
    for _ in 0..18 {
        assert!(script.look(15, 2) > 2, "{}", script.now);
    }
    assert_eq!(script.look(15, 2), 32.max(script.current));
    script.now += 300;
    assert_eq!(script.look(1, 2), 2);
}

#[test]
fn each_decision_says_why() {
    let mut script = Script::new(None, 10);
    let decision = script.decide(100);
    assert_eq!((decision.replicas, decision.limited, decision.limit.0), (20, true, "ScaleUpLimit"));
    assert_eq!(decision.able.0, "ReadyForNewScale");
    let decision = script.decide(5);
    assert_eq!(decision.able.0, "ScaleDownStabilized");
    script.now = 1000;
    let decision = script.decide(0);
    assert_eq!((decision.replicas, decision.limit.0), (1, "TooFewReplicas"));
    script.current = 900;
    let decision = script.decide(5000);
    assert_eq!((decision.replicas, decision.limit.0), (1000, "TooManyReplicas"));
    let decision = Script::new(None, 10).decide(12);
    assert_eq!(
        (decision.replicas, decision.limited, decision.limit.0),
        (12, false, "DesiredWithinRange")
    );
}

#[test]
fn of_several_policies_the_one_that_changes_most_counts_unless_it_says_otherwise() {
    let up = |select: &str| {
        json!({"selectPolicy": select, "stabilizationWindowSeconds": 0, "policies": [
            policy("Pods", 4, 15), policy("Percent", 100, 15),
        ]})
    };
    let down = json!({"selectPolicy": "Max", "stabilizationWindowSeconds": 0, "policies": [
        policy("Percent", 100, 15),
    ]});
    let after = |select, current| {
        Script::new(Some(behavior(up(select), down.clone())), current).look(0, 1000)
    };
    assert_eq!((after("Max", 1), after("Max", 10)), (5, 20));
    assert_eq!((after("Min", 1), after("Min", 10)), (2, 14));
    assert_eq!(after("Disabled", 10), 10);
}

#[test]
fn a_policy_counts_what_was_done_in_its_period() {
    let up = json!({"selectPolicy": "Max", "stabilizationWindowSeconds": 0, "policies": [
        policy("Pods", 4, 60),
    ]});
    let down = json!({"selectPolicy": "Max", "stabilizationWindowSeconds": 0, "policies": [
        policy("Percent", 10, 60),
    ]});
    let mut script = Script::new(Some(behavior(up, down)), 10);
    assert_eq!(script.look(0, 100), 14);
    assert_eq!(script.look(15, 100), 14, "four in this minute already");
    assert_eq!(script.decide(100).limit.0, "ScaleUpLimit");
    assert_eq!(script.look(45, 100), 18);

    script.now += 3600;
    script.current = 100;
    assert_eq!(script.look(0, 1), 90);
    assert_eq!(script.look(15, 1), 90);
    assert_eq!(script.decide(1).limit.0, "ScaleDownLimit");
    assert_eq!(script.look(45, 1), 81);
}

#[test]
fn a_window_takes_the_most_cautious_of_what_was_asked_for_in_it() {
    let rules = |window: i32| {
        json!({"selectPolicy": "Max", "stabilizationWindowSeconds": window, "policies": [
            policy("Percent", 1000, 15), policy("Pods", 1000, 15),
        ]})
    };
    let mut script = Script::new(Some(behavior(rules(60), rules(120))), 10);
    script.history.begin(10, at(0));
    assert_eq!(script.look(0, 50), 10, "ten were there when it began");
    assert_eq!(script.look(61, 50), 50);
    assert_eq!(script.look(15, 80), 50, "50 was asked for 15 seconds ago");
    assert_eq!(script.decide(80).able.0, "ScaleUpStabilized");
    assert_eq!(script.look(46, 80), 80);
    assert_eq!(script.look(15, 5), 80);
    assert_eq!(script.decide(5).able.0, "ScaleDownStabilized");
    assert_eq!(script.look(121, 5), 5);
}

#[test]
fn without_a_window_of_its_own_the_way_down_has_the_usual_one() {
    let up = json!({"selectPolicy": "Max", "stabilizationWindowSeconds": 0, "policies": [policy("Pods", 4, 15)]});
    let down = json!({"selectPolicy": "Max", "policies": [policy("Percent", 100, 15)]});
    let mut script = Script::new(Some(behavior(up, down)), 10);
    script.look(0, 10);
    assert_eq!(script.look(299, 2), 10);
    assert_eq!(script.look(2, 2), 2);
}

proptest! {
    #[test]
    fn no_policy_is_ever_exceeded_in_any_of_its_periods(
        wishes in prop::collection::vec((1_i64..40, 1_i32..200), 1..60),
        pods in 1_i32..10,
        period in 1_i32..120,
        start in 1_i32..50,
    ) {
        let rules = json!({"selectPolicy": "Max", "stabilizationWindowSeconds": 0, "policies": [
            policy("Pods", pods, period),
        ]});
        let mut script = Script::new(Some(behavior(rules.clone(), rules)), start);
        let mut seen = vec![(-1_000, start)];
        for (after, desired) in wishes {
            let was = script.current;
            let now = script.look(after, desired);
            // Never past what is asked for, and never the other way.
            prop_assert!((was.min(desired)..=was.max(desired)).contains(&now));
            let began = script.now - i64::from(period);
            let then = seen.iter().rev().find(|(at, _)| *at <= began).map_or(start, |(_, n)| *n);
            let allowed = if now > was { now <= then + pods } else { now >= then - pods };
            prop_assert!(now == was || allowed, "{then} to {now} in {period}s: {seen:?}");
            seen.push((script.now, now));
        }
    }

    #[test]
    fn a_lasting_wish_is_granted(current in 1_i32..200, wish in 1_i32..200, plain in any::<bool>()) {
        let rules = json!({"selectPolicy": "Max", "policies": [policy("Pods", 1, 15)]});
        let rules = behavior(rules.clone(), rules);
        let mut script = Script::new((!plain).then_some(rules), current);
        for _ in 0..400 {
            script.look(15, wish);
        }
        prop_assert_eq!(script.current, wish);
    }

    #[test]
    fn what_is_remembered_is_bounded(wishes in prop::collection::vec(1_i32..200, 1..300)) {
        let mut script = Script::new(None, 1);
        for wish in wishes {
            script.look(15, wish);
        }
        prop_assert!(script.history.recommendations.len() <= 22);
        prop_assert!(script.history.ups.is_empty() && script.history.downs.is_empty());
    }
}
