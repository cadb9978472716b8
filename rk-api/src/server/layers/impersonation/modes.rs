//! The ways in which a user may act as another, each with the rights that it takes.
//!
//! Constrained impersonation (KEP-5284) takes two kinds of rights: to act as somebody, and to do what is
//! asked while acting so. There is a mode for each kind of user: a node, in particular the one that a
//! service account's Pod is on, a service account, and everybody else. The right to `impersonate`, as
//! it has always been, does for all and everything. The first mode that allows it counts.

use std::fmt;

use crate::{
    meta::names,
    server::{
        authz,
        info::RequestInfo,
        status::ApiError,
        user::{ANONYMOUS, AUTHENTICATED, MASTERS, UNAUTHENTICATED, UserInfo},
    },
};

const AUTHENTICATION: &str = "authentication.k8s.io";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
const NODE: &str = "system:node:";
const NODES: &str = "system:nodes";
/// What the token of a Pod says of the Pod's node.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// In its place the authorizer is told which things are known of the asker.
const ASSOCIATED_KEYS: &str = "authentication.kubernetes.io/associated-node-keys";
/// From so many on, the right to all of a kind is asked for first.
const MANY: usize = 4;

/// A way to act as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// A service account as the node that its Pod is on.
    AssociatedNode,
    /// As any node.
    ArbitraryNode,
    /// As a service account.
    ServiceAccount,
    /// As somebody who is neither.
    UserInfo,
    /// As anybody, in all that they may do.
    Legacy,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::AssociatedNode => "associated-node",
            Mode::ArbitraryNode => "arbitrary-node",
            Mode::ServiceAccount => "serviceaccount",
            Mode::UserInfo => "user-info",
            Mode::Legacy => "legacy",
        })
    }
}

/// What acting as another takes in one mode.
#[derive(Debug)]
pub(super) struct Plan {
    /// Who asks, as authorizers are to see them.
    pub asker: UserInfo,
    /// What must hold, in this order.
    pub steps: Vec<Step>,
    /// Who they are then.
    pub user: UserInfo,
}

/// One thing that must hold.
#[derive(Debug)]
pub(super) enum Step {
    /// The asker may do this.
    May(RequestInfo),
    /// The asker may do the first, or else all of the others.
    MayAll(RequestInfo, Vec<RequestInfo>),
    /// Nobody may.
    Never(ApiError),
}

impl Mode {
    /// In the order in which they are tried.
    pub(super) const ALL: [Mode; 5] = [
        Mode::AssociatedNode,
        Mode::ArbitraryNode,
        Mode::ServiceAccount,
        Mode::UserInfo,
        Mode::Legacy,
    ];

    /// The verb that the right to act as somebody has.
    pub(super) fn verb(self) -> String {
        match self {
            Mode::Legacy => "impersonate".to_owned(),
            mode => format!("impersonate:{mode}"),
        }
    }

    /// What it takes that `asker` makes this request as `wanted`; `None` if it cannot be made in this
    /// mode.
    pub(super) fn plan(
        self,
        asker: &UserInfo,
        wanted: &UserInfo,
        request: &RequestInfo,
    ) -> Option<Plan> {
        let name_only =
            wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (node, account) = (node(&wanted.name), account(&wanted.name));
        let applies = match self {
            Mode::AssociatedNode => name_only && node.is_some_and(|node| is_on_node(asker, node)),
            Mode::ArbitraryNode => name_only && node.is_some(),
            Mode::ServiceAccount => name_only && account.is_some(),
            Mode::UserInfo => node.is_none() && account.is_none(),
            Mode::Legacy => true,
        };
        if !applies {
            return None;
        }
        let mut steps = Vec::new();
        if self != Mode::Legacy {
            let verb = format!("impersonate-on:{self}:{}", request.verb).into();
            steps.push(Step::May(RequestInfo { verb, ..request.clone() }));
        }
        steps.push(Step::May(self.username(&wanted.name)));
        if !wanted.uid.is_empty() {
            steps.push(Step::May(self.question(AUTHENTICATION, "uids", &wanted.uid)));
        }
        steps.extend(self.groups(asker, &wanted.groups));
        steps.extend(self.extra(asker, wanted));
        let mut asker = asker.clone();
        if self == Mode::AssociatedNode {
            // On which node it is was seen here.
            let known = std::mem::take(&mut asker.extra).into_keys().collect();
            asker.extra.insert(ASSOCIATED_KEYS.to_owned(), known);
        }
        Some(Plan { asker, steps, user: self.complete(wanted) })
    }

    fn question(self, group: &str, resource: &str, name: &str) -> RequestInfo {
        RequestInfo {
            is_resource: true,
            verb: self.verb().into(),
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        }
    }

    /// The group of users, groups, nodes and service accounts: they have moved.
    fn group(self) -> &'static str {
        if self == Mode::Legacy { "" } else { AUTHENTICATION }
    }

    fn username(self, username: &str) -> RequestInfo {
        if let Some((namespace, name)) = account(username) {
            let question = self.question(self.group(), "serviceaccounts", name);
            return RequestInfo { namespace: namespace.to_owned(), ..question };
        }
        match (self, node(username)) {
            // The right is the same for all nodes: which one it is was seen before.
            (Mode::AssociatedNode, Some(_)) => self.question(self.group(), "nodes", "*"),
            (Mode::ArbitraryNode, Some(name)) => self.question(self.group(), "nodes", name),
            _ => self.question(self.group(), "users", username),
        }
    }

    fn groups(self, asker: &UserInfo, groups: &[String]) -> Vec<Step> {
        let question = |name: &str| self.question(self.group(), "groups", name);
        let each = || groups.iter().map(|group| question(group));
        if self == Mode::Legacy {
            return each().map(Step::May).collect();
        }
        let never = |name: &str, why: &str| {
            vec![Step::Never(authz::forbidden(asker, &question(name), why))]
        };
        match () {
            () if groups.iter().any(String::is_empty) => {
                never("", "impersonating the empty string group is not allowed")
            }
            () if groups.iter().any(|group| group == MASTERS) => {
                never(MASTERS, "impersonating the system:masters group is not allowed")
            }
            () if groups.len() >= MANY => vec![Step::MayAll(question("*"), each().collect())],
            () => each().map(Step::May).collect(),
        }
    }

    fn extra(self, asker: &UserInfo, wanted: &UserInfo) -> Vec<Step> {
        let question = |key: &str, value: &str| RequestInfo {
            subresource: key.to_owned(),
            ..self.question(AUTHENTICATION, "userextras", value)
        };
        let all = wanted.extra.iter();
        let each: Vec<RequestInfo> =
            all.flat_map(|(key, values)| values.iter().map(|value| question(key, value))).collect();
        if self == Mode::Legacy {
            return each.into_iter().map(Step::May).collect();
        }
        let wrong = wanted.extra.iter().find_map(|(key, values)| wrong_extra(key, values));
        match wrong {
            Some(why) => vec![Step::Never(authz::forbidden(asker, &question("", ""), &why))],
            None if each.len() >= MANY => vec![Step::MayAll(question("*", "*"), each)],
            None => each.into_iter().map(Step::May).collect(),
        }
    }

    /// Whoever is wanted, with the groups that come with a name: those of a service account, unless
    /// others were asked for, those of a node where rights are constrained, and whether somebody is
    /// authenticated.
    fn complete(self, wanted: &UserInfo) -> UserInfo {
        let mut user = wanted.clone();
        let is_node = matches!(self, Mode::AssociatedNode | Mode::ArbitraryNode);
        if is_node {
            user.groups = vec![NODES.to_owned()];
        } else if let Some((namespace, name)) = account(&wanted.name)
            && wanted.groups.is_empty()
        {
            user.groups = UserInfo::service_account(namespace, name).groups;
            user.groups.retain(|group| group != AUTHENTICATED);
        }
        if user.name == ANONYMOUS {
            if !user.is_in(UNAUTHENTICATED) {
                user.groups.push(UNAUTHENTICATED.to_owned());
            }
        } else if !user.is_in(UNAUTHENTICATED) && !user.is_in(AUTHENTICATED) {
            user.groups.push(AUTHENTICATED.to_owned());
        }
        user
    }
}

/// The namespace and name of the service account that a user is.
fn account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
    let valid = names::dns_label(namespace, false).is_empty()
        && names::dns_subdomain(name, false).is_empty();
    valid.then_some((namespace, name))
}

/// The node that a user is.
fn node(user: &str) -> Option<&str> {
    user.strip_prefix(NODE).filter(|name| names::dns_subdomain(name, false).is_empty())
}

/// Whether it is a service account whose Pod is on a node, as its token says.
fn is_on_node(asker: &UserInfo, node: &str) -> bool {
    let known = asker.extra.get(NODE_NAME);
    account(&asker.name).is_some() && known.is_some_and(|known| *known == [node])
}

/// Why this cannot be said of anybody where rights are constrained.
fn wrong_extra(key: &str, values: &[String]) -> Option<String> {
    if key.is_empty() {
        return Some("impersonating the empty string key in extra is not allowed".to_owned());
    }
    if let Some(why) = names::domain_prefixed_path(key).first() {
        return Some(format!(
            "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: \
             {key:?}: {why}"
        ));
    }
    if key.chars().any(char::is_uppercase) {
        let why = "impersonating a non-lowercase key in extra is not allowed";
        return Some(format!("{why}: {key:?}"));
    }
    if values.iter().any(String::is_empty) {
        return Some("impersonating the empty string value in extra is not allowed".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, groups: &[&str]) -> UserInfo {
        UserInfo {
            name: name.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..UserInfo::default()
        }
    }

    fn listing() -> RequestInfo {
        RequestInfo {
            is_resource: true,
            verb: "list".into(),
            resource: "pods".to_owned(),
            ..RequestInfo::default()
        }
    }

    fn modes(asker: &UserInfo, wanted: &UserInfo) -> Vec<Mode> {
        let can = |mode: &Mode| mode.plan(asker, wanted, &listing()).is_some();
        Mode::ALL.into_iter().filter(can).collect()
    }

    /// What a plan asks, in short.
    fn asked(plan: &Plan) -> Vec<String> {
        let short = |info: &RequestInfo| {
            let path =
                [&info.group, &info.resource, &info.subresource, &info.namespace, &info.name];
            let path: Vec<_> = path.into_iter().filter(|part| !part.is_empty()).cloned().collect();
            format!("{} {}", info.verb, path.join("/"))
        };
        let steps = plan.steps.iter().map(|step| match step {
            Step::May(info) => short(info),
            Step::MayAll(all, each) => format!("{} or {}", short(all), each.len()),
            Step::Never(error) => error.message.clone(),
        });
        steps.collect()
    }

    #[test]
    fn each_kind_of_user_has_its_modes() {
        let ann = UserInfo::new("ann", []);
        assert_eq!(modes(&ann, &wanted("jane", &["devs"])), [Mode::UserInfo, Mode::Legacy]);
        let robot = wanted("system:serviceaccount:default:robot", &[]);
        assert_eq!(modes(&ann, &robot), [Mode::ServiceAccount, Mode::Legacy]);
        let robot = wanted("system:serviceaccount:default:robot", &["devs"]);
        assert_eq!(modes(&ann, &robot), [Mode::Legacy]);
        let node = wanted("system:node:n1", &[]);
        assert_eq!(modes(&ann, &node), [Mode::ArbitraryNode, Mode::Legacy]);

        let mut agent = UserInfo::service_account("kube-system", "agent");
        agent.extra.insert(NODE_NAME.to_owned(), vec!["n1".to_owned()]);
        assert_eq!(modes(&agent, &node), [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::Legacy]);
        let other = wanted("system:node:n2", &[]);
        assert_eq!(modes(&agent, &other), [Mode::ArbitraryNode, Mode::Legacy]);
    }

    #[test]
    fn constrained_modes_take_two_rights() {
        let ann = UserInfo::new("ann", []);
        let mut jane = wanted("jane", &["devs"]);
        jane.uid = "7".to_owned();
        jane.extra.insert("example.com/scopes".to_owned(), vec!["view".to_owned()]);
        let plan = Mode::UserInfo.plan(&ann, &jane, &listing()).unwrap();
        assert_eq!(
            asked(&plan),
            [
                "impersonate-on:user-info:list pods",
                "impersonate:user-info authentication.k8s.io/users/jane",
                "impersonate:user-info authentication.k8s.io/uids/7",
                "impersonate:user-info authentication.k8s.io/groups/devs",
                "impersonate:user-info authentication.k8s.io/userextras/example.com/scopes/view",
            ]
        );
        assert_eq!(plan.user.groups, ["devs", AUTHENTICATED]);
        let plan = Mode::Legacy.plan(&ann, &wanted("jane", &["devs"]), &listing()).unwrap();
        assert_eq!(asked(&plan), ["impersonate users/jane", "impersonate groups/devs"]);
    }

    #[test]
    fn a_service_account_may_be_allowed_to_act_as_whatever_node_it_is_on() {
        let mut agent = UserInfo::service_account("kube-system", "agent");
        agent.extra.insert(NODE_NAME.to_owned(), vec!["n1".to_owned()]);
        let node = wanted("system:node:n1", &[]);
        let plan = Mode::AssociatedNode.plan(&agent, &node, &listing()).unwrap();
        assert_eq!(
            asked(&plan),
            [
                "impersonate-on:associated-node:list pods",
                "impersonate:associated-node authentication.k8s.io/nodes/*",
            ]
        );
        assert_eq!(plan.user.groups, [NODES, AUTHENTICATED]);
        assert_eq!(plan.asker.extra[ASSOCIATED_KEYS], [NODE_NAME]);
    }

    #[test]
    fn nobody_becomes_a_master_where_rights_are_constrained() {
        let ann = UserInfo::new("ann", []);
        let plan = Mode::UserInfo.plan(&ann, &wanted("jane", &[MASTERS]), &listing()).unwrap();
        let last = asked(&plan).pop().unwrap();
        assert!(last.ends_with("impersonating the system:masters group is not allowed"), "{last}");
        let many = wanted("jane", &["a", "b", "c", "d"]);
        let plan = Mode::UserInfo.plan(&ann, &many, &listing()).unwrap();
        let last = asked(&plan).pop().unwrap();
        assert_eq!(last, "impersonate:user-info authentication.k8s.io/groups/* or 4");
    }

    #[test]
    fn a_service_account_brings_its_groups() {
        let robot = wanted("system:serviceaccount:a:b", &[]);
        for mode in [Mode::ServiceAccount, Mode::Legacy] {
            let plan = mode.plan(&UserInfo::admin(), &robot, &listing()).unwrap();
            let groups = plan.user.groups.join(" ");
            let expected = "system:serviceaccounts system:serviceaccounts:a system:authenticated";
            assert_eq!(groups, expected);
        }
        let ghost = wanted(ANONYMOUS, &[]);
        let plan = Mode::Legacy.plan(&UserInfo::admin(), &ghost, &listing()).unwrap();
        assert_eq!(plan.user.groups, [UNAUTHENTICATED]);
    }
}
