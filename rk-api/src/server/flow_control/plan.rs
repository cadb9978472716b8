//! From FlowSchemas and PriorityLevelConfigurations to what the server does: pure.

use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, PriorityLevelConfiguration, PriorityLevelConfigurationSpec,
};

use super::{dealer::Dealer, defaults, queue_set::Discipline};

/// The part of a level's seats that one request may take.
const SEATS_OF_ONE_PERCENT: u32 = 15;

/// What the server is to do.
#[derive(Debug)]
pub(super) struct Plan {
    /// The priority levels.
    pub levels: Vec<LevelPlan>,
    /// The schemas that are in force, in the order in which they are asked.
    pub schemas: Vec<FlowSchema>,
    /// Of every schema, by name, whether its priority level is missing.
    pub dangling: Vec<(String, bool)>,
}

/// A priority level as it is to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LevelPlan {
    /// Its name.
    pub name: String,
    /// The UID of its object; empty when there is none.
    pub uid: String,
    /// What becomes of requests while all seats are taken.
    pub discipline: Discipline,
    /// Its part of the server's seats.
    pub nominal: u32,
    /// What it keeps when it lends.
    pub min: u32,
    /// What it has at most when it borrows.
    pub max: u32,
    /// What it has before anybody knows what it needs.
    pub initial: u32,
    /// The most seats of one request.
    pub seats_of_one_max: u32,
}

/// Plans for `seats` in all. The two levels and schemas that there must be are there even without
/// objects; a level that makes no sense, which validation refuses, is left out.
pub(super) fn plan(
    mut levels: Vec<PriorityLevelConfiguration>,
    mut schemas: Vec<FlowSchema>,
    seats: u32,
) -> Plan {
    for needed in defaults::mandatory_levels() {
        if !levels.iter().any(|level| level.metadata.name == needed.metadata.name) {
            levels.push(needed);
        }
    }
    let known: Vec<(String, Discipline, &PriorityLevelConfiguration)> = levels
        .iter()
        .filter_map(|level| {
            let name = level.metadata.name.clone()?;
            Some((name, discipline(&level.spec)?, level))
        })
        .collect();
    let total: u64 =
        known.iter().map(|(.., level)| u64::from(Shares::of(&level.spec).nominal)).sum();
    let planned = known.iter().map(|(name, discipline, level)| {
        let shares = Shares::of(&level.spec);
        let share = u64::from(seats) * u64::from(shares.nominal);
        let nominal = share.div_ceil(total.max(1)) as u32;
        let percent = |percent: u32| {
            (u64::from(nominal) * u64::from(percent) + 50).div_euclid(100).min(u64::from(u32::MAX))
                as u32
        };
        let lendable = percent(shares.lendable_percent).min(nominal);
        LevelPlan {
            name: name.clone(),
            uid: level.metadata.uid.clone().unwrap_or_default(),
            discipline: *discipline,
            nominal,
            min: nominal - lendable,
            max: nominal + shares.borrowing_limit_percent.map_or(seats, percent),
            initial: nominal - lendable / 2,
            seats_of_one_max: seats_of_one_max(&level.spec, nominal),
        }
    });
    let planned: Vec<LevelPlan> = planned.collect();
    let has_level = |schema: &FlowSchema| {
        let level = &schema.spec.priority_level_configuration.name;
        planned.iter().any(|planned| planned.name == *level)
    };
    let dangling = schemas
        .iter()
        .map(|schema| (schema.metadata.name.clone().unwrap_or_default(), !has_level(schema)))
        .collect();
    schemas.retain(has_level);
    for needed in defaults::mandatory_schemas() {
        if !schemas.iter().any(|schema| schema.metadata.name == needed.metadata.name) {
            schemas.push(needed);
        }
    }
    let rank = |schema: &FlowSchema| schema.spec.matching_precedence.unwrap_or(i32::MAX);
    schemas
        .sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name)));
    Plan { levels: planned, schemas, dangling }
}

struct Shares {
    nominal: u32,
    lendable_percent: u32,
    borrowing_limit_percent: Option<u32>,
}

impl Shares {
    fn of(spec: &PriorityLevelConfigurationSpec) -> Self {
        let number = |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok());
        let exempt = spec.exempt.as_ref();
        match &spec.limited {
            Some(limited) => Self {
                nominal: number(limited.nominal_concurrency_shares).unwrap_or(30),
                lendable_percent: number(limited.lendable_percent).unwrap_or(0),
                borrowing_limit_percent: number(limited.borrowing_limit_percent),
            },
            None => Self {
                nominal: exempt.and_then(|e| number(e.nominal_concurrency_shares)).unwrap_or(0),
                lendable_percent: exempt.and_then(|e| number(e.lendable_percent)).unwrap_or(0),
                borrowing_limit_percent: None,
            },
        }
    }
}

fn discipline(spec: &PriorityLevelConfigurationSpec) -> Option<Discipline> {
    match (spec.type_.as_str(), &spec.limited) {
        ("Exempt", _) => Some(Discipline::Exempt),
        ("Limited", Some(limited)) => match &limited.limit_response.queuing {
            None => Some(Discipline::Reject),
            Some(queuing) => {
                let number =
                    |number: Option<i32>| usize::try_from(number.unwrap_or(0)).unwrap_or(0);
                Some(Discipline::Queue {
                    dealer: Dealer::new(number(queuing.queues), number(queuing.hand_size)),
                    length_limit: number(queuing.queue_length_limit),
                })
            }
        },
        _ => None,
    }
}

/// So few that the requests of a hand do not take all of them.
fn seats_of_one_max(spec: &PriorityLevelConfigurationSpec, nominal: u32) -> u32 {
    let queuing = spec.limited.as_ref().and_then(|it| it.limit_response.queuing.as_ref());
    let hand = queuing.and_then(|queuing| queuing.hand_size).unwrap_or(1).max(1).unsigned_abs();
    (nominal * SEATS_OF_ONE_PERCENT).div_ceil(100).min(nominal / hand).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_divided_by_shares() {
        let plan = plan(defaults::levels(), defaults::schemas(), 600);
        let level = |name: &str| plan.levels.iter().find(|level| level.name == name).unwrap();
        // 245 shares in all.
        let low = level("workload-low");
        assert_eq!((low.nominal, low.min, low.max, low.initial), (245, 24, 845, 135));
        let system = level("system");
        assert_eq!((system.nominal, system.min, system.seats_of_one_max), (74, 50, 12));
        assert_eq!(level("catch-all").discipline, Discipline::Reject);
        assert_eq!(level("exempt").nominal, 0);
        let order: Vec<_> =
            plan.schemas.iter().filter_map(|schema| schema.metadata.name.as_deref()).collect();
        let expected = "exempt probes system-leader-election system-node-high system-nodes \
                        kube-controller-manager kube-scheduler kube-system-service-accounts \
                        service-accounts global-default catch-all";
        assert_eq!(order.join(" "), expected);
    }

    #[test]
    fn a_schema_without_its_level_is_dangling_and_not_in_force() {
        let levels = defaults::mandatory_levels();
        let plan = plan(levels, defaults::schemas(), 600);
        assert_eq!(plan.schemas.len(), 3, "exempt, probes, catch-all");
        let dangling = plan.dangling.iter().filter(|(_, dangling)| *dangling).count();
        assert_eq!(dangling, 8);
    }

    #[test]
    fn what_must_be_there_is_there_without_objects() {
        let plan = plan(Vec::new(), Vec::new(), 600);
        assert_eq!((plan.levels.len(), plan.schemas.len()), (2, 2));
        assert_eq!(plan.levels.iter().map(|level| level.nominal).max(), Some(600));
    }
}
