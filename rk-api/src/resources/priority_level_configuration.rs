//! PriorityLevelConfiguration: how many requests of a level are served at once, and what becomes of
//! the others.

use k8s_openapi::{
    api::flowcontrol::v1::{
        ExemptPriorityLevelConfiguration, LimitResponse, LimitedPriorityLevelConfiguration,
        PriorityLevelConfiguration, PriorityLevelConfigurationSpec,
        PriorityLevelConfigurationStatus, QueuingConfiguration,
    },
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, default_number, list},
    flow_schema::condition_types,
    row::Row,
    workload,
};
use crate::{
    field::{ErrorList, Path},
    meta::table::{NONE, age, name},
};

/// The row of PriorityLevelConfiguration.
pub(super) fn row() -> Resource {
    Row::of::<PriorityLevels>().status().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Type", "string", "Whether it limits anything."),
    Column::new("NominalConcurrencyShares", "string", "Its part of the server's requests."),
    Column::new("Queues", "string", "How many queues it has."),
    Column::new("HandSize", "string", "How many queues a flow may use."),
    Column::new("QueueLengthLimit", "string", "How many requests may wait in a queue."),
    Column::AGE,
];

/// The most queues of a level.
const QUEUES_MAX: i32 = 10_000_000;
/// The bits that there are for choosing a flow's queues.
const HASH_BITS: i32 = 60;

/// How a PriorityLevelConfiguration behaves.
#[derive(Debug, Default)]
pub(super) struct PriorityLevels;

impl Kind for PriorityLevels {
    type Object = PriorityLevelConfiguration;

    fn default(level: &mut PriorityLevelConfiguration) {
        if let Some(limited) = &mut level.spec.limited {
            limited.nominal_concurrency_shares.get_or_insert(30);
            limited.lendable_percent.get_or_insert(0);
            if let Some(queuing) = &mut limited.limit_response.queuing {
                default_number(&mut queuing.queues, 64);
                default_number(&mut queuing.queue_length_limit, 50);
                default_number(&mut queuing.hand_size, 8);
            }
        }
        if let Some(exempt) = &mut level.spec.exempt {
            exempt.nominal_concurrency_shares.get_or_insert(0);
            exempt.lendable_percent.get_or_insert(0);
        }
        level.status.get_or_insert_default();
    }

    fn prepare_create(level: &mut PriorityLevelConfiguration) {
        level.status = Some(PriorityLevelConfigurationStatus::default());
        workload::first_generation(&mut level.metadata);
    }

    fn prepare_update(
        new: &mut PriorityLevelConfiguration,
        old: &PriorityLevelConfiguration,
        part: Part,
    ) {
        if part == Part::Status {
            new.spec = old.spec.clone();
        } else {
            new.status = old.status.clone();
        }
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(level: &PriorityLevelConfiguration) -> ErrorList {
        let mut errors = Errors::default();
        let own_name = name(&level.metadata);
        let path = Path::new("spec");
        spec(&mut errors, &level.spec, own_name, &path);
        if let Some(fixed) = mandatory(own_name) {
            // How much others may borrow from exempt requests can be said.
            let is_exempt = own_name == "exempt";
            let mut found = level.spec.clone();
            if is_exempt {
                found.exempt.clone_from(&fixed.exempt);
            }
            if found != fixed {
                let but = if is_exempt { " except the 'spec.exempt' field" } else { "" };
                let wrong = format!("spec of '{own_name}'{but} must equal the fixed value");
                errors.invalid(&path, json!(level.spec), wrong);
            }
        }
        let conditions = level.status.iter().flat_map(|status| list(&status.conditions));
        condition_types(&mut errors, conditions.map(|condition| condition.type_.as_str()));
        errors.0
    }

    fn validate_update(
        new: &PriorityLevelConfiguration,
        _: &PriorityLevelConfiguration,
        part: Part,
    ) -> ErrorList {
        let mut errors = Errors::default();
        if part == Part::Status {
            let conditions = new.status.iter().flat_map(|status| list(&status.conditions));
            condition_types(&mut errors, conditions.map(|condition| condition.type_.as_str()));
        }
        errors.0
    }

    fn cells(level: &PriorityLevelConfiguration, now: Timestamp) -> Vec<Value> {
        let limited = level.spec.limited.as_ref();
        let queuing = limited.and_then(|limited| limited.limit_response.queuing.as_ref());
        let shares = limited.and_then(|limited| limited.nominal_concurrency_shares);
        let cell = |number: Option<i32>| number.map_or(json!(NONE), |number| json!(number));
        vec![
            json!(name(&level.metadata)),
            json!(level.spec.type_),
            cell(shares),
            cell(queuing.map(|queuing| queuing.queues.unwrap_or(0))),
            cell(queuing.map(|queuing| queuing.hand_size.unwrap_or(0))),
            cell(queuing.map(|queuing| queuing.queue_length_limit.unwrap_or(0))),
            json!(age(&level.metadata, now)),
        ]
    }

    const UNCONDITIONAL_UPDATE: bool = false;
}

/// The spec of a level that every cluster has: `exempt` and `catch-all`.
pub(super) fn mandatory(name: &str) -> Option<PriorityLevelConfigurationSpec> {
    match name {
        "exempt" => Some(PriorityLevelConfigurationSpec {
            type_: "Exempt".to_owned(),
            exempt: Some(ExemptPriorityLevelConfiguration {
                nominal_concurrency_shares: Some(0),
                lendable_percent: Some(0),
            }),
            limited: None,
        }),
        "catch-all" => Some(PriorityLevelConfigurationSpec {
            type_: "Limited".to_owned(),
            limited: Some(LimitedPriorityLevelConfiguration {
                nominal_concurrency_shares: Some(5),
                lendable_percent: Some(0),
                borrowing_limit_percent: None,
                limit_response: LimitResponse { type_: "Reject".to_owned(), queuing: None },
            }),
            exempt: None,
        }),
        _ => None,
    }
}

fn spec(errors: &mut Errors, spec: &PriorityLevelConfigurationSpec, name: &str, path: &Path) {
    if (name == "exempt") != (spec.type_ == "Exempt") {
        let wrong = "type must be 'Exempt' if and only if name is 'exempt'";
        errors.invalid(&path.child("type"), spec.type_.as_str(), wrong);
    }
    match spec.type_.as_str() {
        "Exempt" => {
            if spec.limited.is_some() {
                errors.forbidden(&path.child("limited"), "must be nil if the type is not Limited");
            }
            if let Some(exempt) = &spec.exempt {
                let path = path.child("exempt");
                let shares = exempt.nominal_concurrency_shares;
                count(errors, shares, &path.child("nominalConcurrencyShares"));
                lendable(errors, exempt.lendable_percent, &path.child("lendablePercent"));
            }
        }
        "Limited" => {
            if spec.exempt.is_some() {
                errors.forbidden(&path.child("exempt"), "must be nil if the type is Limited");
            }
            let path = path.child("limited");
            match &spec.limited {
                None => errors.required(&path, "must not be empty when type is Limited"),
                Some(limited) => self::limited(errors, limited, &path),
            }
        }
        other => errors.one_of(&path.child("type"), other, &["Exempt", "Limited"]),
    }
}

fn count(errors: &mut Errors, count: Option<i32>, at: &Path) {
    if let Some(count) = count.filter(|count| *count < 0) {
        errors.invalid(at, count, "must be a non-negative integer");
    }
}

fn lendable(errors: &mut Errors, percent: Option<i32>, at: &Path) {
    if let Some(percent) = percent.filter(|percent| !(0..=100).contains(percent)) {
        errors.invalid(at, percent, "must be between 0 and 100, inclusive");
    }
}

fn limited(errors: &mut Errors, limited: &LimitedPriorityLevelConfiguration, path: &Path) {
    let shares = limited.nominal_concurrency_shares;
    count(errors, shares, &path.child("nominalConcurrencyShares"));
    let response = &limited.limit_response;
    let at = path.child("limitResponse");
    match (response.type_.as_str(), &response.queuing) {
        ("Reject", Some(_)) => errors.forbidden(
            &at.child("queuing"),
            "must be nil if limited.limitResponse.type is not Limited",
        ),
        ("Queue", None) => errors.required(
            &at.child("queuing"),
            "must not be empty if limited.limitResponse.type is Limited",
        ),
        ("Queue", Some(queuing)) => self::queuing(errors, queuing, &at.child("queuing")),
        ("Reject", None) => {}
        (other, _) => errors.one_of(&at.child("type"), other, &["Queue", "Reject"]),
    }
    if let Some(percent) = limited.borrowing_limit_percent.filter(|percent| *percent < 0) {
        let at = path.child("borrowingLimitPercent");
        errors.invalid(&at, percent, "if specified, must be a non-negative integer");
    }
    lendable(errors, limited.lendable_percent, &path.child("lendablePercent"));
}

fn queuing(errors: &mut Errors, queuing: &QueuingConfiguration, path: &Path) {
    let length = queuing.queue_length_limit.unwrap_or(0);
    let queues = queuing.queues.unwrap_or(0);
    let hand = queuing.hand_size.unwrap_or(0);
    if length <= 0 {
        errors.invalid(&path.child("queueLengthLimit"), length, "must be positive");
    }
    let at = path.child("queues");
    if queues <= 0 {
        errors.invalid(&at, queues, "must be positive");
    } else if queues > QUEUES_MAX {
        errors.invalid(&at, queues, format!("must not be greater than {QUEUES_MAX}"));
    }
    let at = path.child("handSize");
    if hand <= 0 {
        errors.invalid(&at, hand, "must be positive");
    } else if hand > queues {
        errors.invalid(&at, hand, format!("should not be greater than queues ({queues})"));
    } else if entropy_bits(queues, hand) > HASH_BITS {
        let wrong = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater \
             than {HASH_BITS}"
        );
        errors.invalid(&at, hand, wrong);
    }
}

/// The bits that choosing a hand from a deck takes, as shuffle sharding counts them.
fn entropy_bits(deck: i32, hand: i32) -> i32 {
    (f64::from(deck).log2() * f64::from(hand)).ceil() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> PriorityLevelConfiguration {
        let mut level = PriorityLevelConfiguration::default();
        level.metadata.name = Some(name.to_owned());
        level
    }

    #[test]
    fn the_levels_of_every_cluster_are_valid_and_fixed() {
        for name in ["exempt", "catch-all"] {
            let mut level = named(name);
            level.spec = mandatory(name).unwrap();
            assert_eq!(PriorityLevels::validate(&level), []);
        }
        let mut exempt = named("exempt");
        exempt.spec = mandatory("exempt").unwrap();
        exempt.spec.exempt.as_mut().unwrap().lendable_percent = Some(50);
        assert_eq!(PriorityLevels::validate(&exempt), []);
        let mut rest = named("catch-all");
        rest.spec = mandatory("catch-all").unwrap();
        rest.spec.limited.as_mut().unwrap().nominal_concurrency_shares = Some(6);
        assert_eq!(PriorityLevels::validate(&rest).len(), 1);
    }

    #[test]
    fn a_hand_fits_its_deck_and_the_hash() {
        let with = |queues: i32, hand_size: i32| {
            let mut level = named("x");
            level.spec = mandatory("catch-all").unwrap();
            let response = &mut level.spec.limited.as_mut().unwrap().limit_response;
            response.type_ = "Queue".to_owned();
            response.queuing = Some(QueuingConfiguration {
                queues: Some(queues),
                hand_size: Some(hand_size),
                queue_length_limit: Some(50),
            });
            PriorityLevels::validate(&level).len()
        };
        assert_eq!(with(64, 8), 0);
        assert_eq!(with(64, 11), 1, "66 bits");
        assert_eq!(with(8, 9), 1);
        assert_eq!(with(0, 0), 2);
    }
}
