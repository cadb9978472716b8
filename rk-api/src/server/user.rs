//! Who makes a request.

use std::collections::BTreeMap;

/// The group of administrators: its members may do everything.
pub(super) const MASTERS: &str = "system:masters";

/// The group of all who proved who they are.
pub(super) const AUTHENTICATED: &str = "system:authenticated";

/// The group of all who did not.
pub(super) const UNAUTHENTICATED: &str = "system:unauthenticated";

/// The name of those who did not say who they are.
pub(super) const ANONYMOUS: &str = "system:anonymous";

/// A user as authentication found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The name, for example `system:serviceaccount:default:builder`.
    pub name: String,
    /// A lasting identifier; empty when there is none.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// What else is known.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user in some groups, and in `system:authenticated`.
    pub fn new<'a>(name: &str, groups: impl IntoIterator<Item = &'a str>) -> Self {
        let mut groups: Vec<_> = groups.into_iter().map(ToOwned::to_owned).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.to_owned(), groups, ..Self::default() }
    }

    /// The administrator as which in-process clients act.
    pub fn admin() -> Self {
        Self::new("system:admin", [MASTERS])
    }

    /// A node's agent.
    pub fn node(name: &str) -> Self {
        Self::new(&format!("system:node:{name}"), ["system:nodes"])
    }

    /// A service account, as its tokens name it.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                AUTHENTICATED.to_owned(),
            ],
            ..Self::default()
        }
    }

    /// Somebody who did not say who they are.
    pub fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// Whether the user is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|found| found == group)
    }
}
