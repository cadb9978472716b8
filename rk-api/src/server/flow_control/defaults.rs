//! The flow schemas and priority levels that every cluster has: those of kube-apiserver.

use k8s_openapi::{
    api::flowcontrol::v1::{
        ExemptPriorityLevelConfiguration, FlowDistinguisherMethod, FlowSchema, FlowSchemaSpec,
        GroupSubject, LimitResponse, LimitedPriorityLevelConfiguration, NonResourcePolicyRule,
        PolicyRulesWithSubjects, PriorityLevelConfiguration, PriorityLevelConfigurationReference,
        PriorityLevelConfigurationSpec, QueuingConfiguration, ResourcePolicyRule,
        ServiceAccountSubject, Subject, UserSubject,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// What says whether the server keeps a spec as it was made.
pub(super) const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// Names of what cannot be changed or deleted for good.
pub(super) const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

const EVERYBODY: &[Who] =
    &[Who::Group("system:unauthenticated"), Who::Group("system:authenticated")];
const KUBE_SYSTEM: Who = Who::Accounts("kube-system");
const COMPONENTS: &[Who] =
    &[Who::User("system:kube-controller-manager"), Who::User("system:kube-scheduler"), KUBE_SYSTEM];
const NODES: &[Who] = &[Who::Group("system:nodes")];

#[derive(Clone, Copy)]
enum Who {
    User(&'static str),
    Group(&'static str),
    /// All service accounts of a namespace.
    Accounts(&'static str),
}

/// All priority levels.
pub(super) fn levels() -> Vec<PriorityLevelConfiguration> {
    let mut levels = mandatory_levels();
    levels.extend([
        queued("system", 30, 33, 64, 6),
        queued("node-high", 40, 25, 64, 6),
        queued("leader-election", 10, 0, 16, 4),
        queued("workload-high", 40, 50, 128, 6),
        queued("workload-low", 100, 90, 128, 6),
        queued("global-default", 20, 50, 128, 6),
    ]);
    levels
}

/// Those without which nothing could be served.
pub(super) fn mandatory_levels() -> Vec<PriorityLevelConfiguration> {
    let exempt = PriorityLevelConfigurationSpec {
        type_: "Exempt".to_owned(),
        exempt: Some(ExemptPriorityLevelConfiguration {
            nominal_concurrency_shares: Some(0),
            lendable_percent: Some(0),
        }),
        limited: None,
    };
    let rejecting = LimitResponse { type_: "Reject".to_owned(), queuing: None };
    vec![level("exempt", exempt), level("catch-all", limited(5, 0, rejecting))]
}

fn queued(
    name: &str,
    shares: i32,
    lendable_percent: i32,
    queues: i32,
    hand_size: i32,
) -> PriorityLevelConfiguration {
    let queuing = QueuingConfiguration {
        queues: Some(queues),
        hand_size: Some(hand_size),
        queue_length_limit: Some(50),
    };
    let response = LimitResponse { type_: "Queue".to_owned(), queuing: Some(queuing) };
    level(name, limited(shares, lendable_percent, response))
}

fn limited(
    shares: i32,
    lendable_percent: i32,
    limit_response: LimitResponse,
) -> PriorityLevelConfigurationSpec {
    PriorityLevelConfigurationSpec {
        type_: "Limited".to_owned(),
        limited: Some(LimitedPriorityLevelConfiguration {
            nominal_concurrency_shares: Some(shares),
            lendable_percent: Some(lendable_percent),
            borrowing_limit_percent: None,
            limit_response,
        }),
        exempt: None,
    }
}

fn level(name: &str, spec: PriorityLevelConfigurationSpec) -> PriorityLevelConfiguration {
    PriorityLevelConfiguration { metadata: metadata(name), spec, status: None }
}

/// All flow schemas.
pub(super) fn schemas() -> Vec<FlowSchema> {
    let all = || vec![everything()];
    let mut schemas = mandatory_schemas();
    let mut probes = schema("probes", "exempt", 2, None, EVERYBODY, Vec::new(), false);
    for rule in probes.spec.rules.iter_mut().flatten() {
        rule.non_resource_rules = Some(vec![NonResourcePolicyRule {
            verbs: words(&["get"]),
            non_resource_urls: words(&["/healthz", "/readyz", "/livez"]),
        }]);
    }
    let user = Some("ByUser");
    let namespace = Some("ByNamespace");
    let leases = |verbs: &[&str]| resources(verbs, "coordination.k8s.io", &["leases"], false);
    let node_objects = resources(&["*"], "", &["nodes", "nodes/status"], true);
    let manager = &[Who::User("system:kube-controller-manager")];
    let scheduler = &[Who::User("system:kube-scheduler")];
    schemas.extend([
        probes,
        schema(
            "system-leader-election",
            "leader-election",
            100,
            user,
            COMPONENTS,
            vec![leases(&["get", "create", "update"])],
            false,
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            user,
            NODES,
            vec![node_objects, leases(&["*"])],
            false,
        ),
        schema("system-nodes", "system", 500, user, NODES, all(), true),
        schema("kube-controller-manager", "workload-high", 800, namespace, manager, all(), true),
        schema("kube-scheduler", "workload-high", 800, namespace, scheduler, all(), true),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            namespace,
            &[KUBE_SYSTEM],
            all(),
            true,
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            user,
            &[Who::Group("system:serviceaccounts")],
            all(),
            true,
        ),
        schema("global-default", "global-default", 9900, user, EVERYBODY, all(), true),
    ]);
    schemas
}

/// Those that every request falls under one of.
pub(super) fn mandatory_schemas() -> Vec<FlowSchema> {
    let masters = &[Who::Group("system:masters")];
    vec![
        schema("exempt", "exempt", 1, None, masters, vec![everything()], true),
        schema(
            "catch-all",
            "catch-all",
            10_000,
            Some("ByUser"),
            EVERYBODY,
            vec![everything()],
            true,
        ),
    ]
}

fn schema(
    name: &str,
    level: &str,
    precedence: i32,
    distinguisher: Option<&str>,
    who: &[Who],
    resource_rules: Vec<ResourcePolicyRule>,
    all_paths: bool,
) -> FlowSchema {
    let all_paths = all_paths
        .then(|| NonResourcePolicyRule { verbs: words(&["*"]), non_resource_urls: words(&["*"]) });
    let rule = PolicyRulesWithSubjects {
        subjects: who.iter().map(|who| subject(*who)).collect(),
        resource_rules: (!resource_rules.is_empty()).then_some(resource_rules),
        non_resource_rules: all_paths.map(|rule| vec![rule]),
    };
    let spec = FlowSchemaSpec {
        priority_level_configuration: PriorityLevelConfigurationReference {
            name: level.to_owned(),
        },
        matching_precedence: Some(precedence),
        distinguisher_method: distinguisher
            .map(|method| FlowDistinguisherMethod { type_: method.to_owned() }),
        rules: Some(vec![rule]),
    };
    FlowSchema { metadata: metadata(name), spec, status: None }
}

fn subject(who: Who) -> Subject {
    let owned = ToOwned::to_owned;
    match who {
        Who::User(name) => Subject {
            kind: owned("User"),
            user: Some(UserSubject { name: owned(name) }),
            ..Subject::default()
        },
        Who::Group(name) => Subject {
            kind: owned("Group"),
            group: Some(GroupSubject { name: owned(name) }),
            ..Subject::default()
        },
        Who::Accounts(namespace) => Subject {
            kind: owned("ServiceAccount"),
            service_account: Some(ServiceAccountSubject {
                namespace: owned(namespace),
                name: owned("*"),
            }),
            ..Subject::default()
        },
    }
}

fn everything() -> ResourcePolicyRule {
    resources(&["*"], "*", &["*"], true)
}

fn resources(
    verbs: &[&str],
    group: &str,
    resources: &[&str],
    cluster_scope: bool,
) -> ResourcePolicyRule {
    ResourcePolicyRule {
        verbs: words(verbs),
        api_groups: words(&[group]),
        resources: words(resources),
        cluster_scope: cluster_scope.then_some(true),
        namespaces: Some(words(&["*"])),
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        annotations: Some([(AUTO_UPDATE.to_owned(), "true".to_owned())].into()),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Resources;

    #[test]
    fn they_are_valid_and_what_must_not_change_is_as_validation_wants_it() {
        let resources = Resources::builtin();
        let group = "flowcontrol.apiserver.k8s.io";
        for object in levels() {
            let row = resources.get(group, "v1", "prioritylevelconfigurations").unwrap();
            assert_eq!(row.strategy.validate(&object), [], "{:?}", object.metadata.name);
        }
        for object in schemas() {
            let row = resources.get(group, "v1", "flowschemas").unwrap();
            assert_eq!(row.strategy.validate(&object), [], "{:?}", object.metadata.name);
        }
    }
}
