//! The Node authorizer: a kubelet may read what the Pods of its node refer to, and nothing else.
//!
//! It speaks for users `system:node:<name>` in the group `system:nodes`. Whether a write is about
//! the node's own objects is for the admission plug-in NodeRestriction to see, which knows the
//! object.

mod graph;
mod references;

use async_trait::async_trait;

use self::graph::Graph;
pub(in crate::server) use self::references::References;
use super::{
    Authorizer, Decision, UserRules,
    rbac::{Rule, any_allows},
};
use crate::{
    meta::selectors::FieldQuery,
    server::{bootstrap::policy, info::RequestInfo, reader::Reader, user::UserInfo},
};

const USER_PREFIX: &str = "system:node:";
const GROUP: &str = "system:nodes";
const LEASES: &str = "kube-node-lease";

/// The name of the node that a user is; `None` for everybody else.
pub(in crate::server) fn identity(user: &UserInfo) -> Option<&str> {
    user.name.strip_prefix(USER_PREFIX).filter(|_| user.is_in(GROUP))
}

/// See the module's documentation.
#[derive(Debug)]
pub(in crate::server) struct NodeAuthorizer {
    graph: Graph,
    rules: Vec<Rule>,
}

impl NodeAuthorizer {
    /// Follows the Pods of a server.
    pub(in crate::server) fn of(reader: &Reader) -> Self {
        let rules = policy::node_rules().into_iter().map(Rule::new).collect();
        Self { graph: Graph::of(reader), rules }
    }

    fn now(&self, user: &UserInfo, request: &RequestInfo) -> Decision {
        let Some(node) = identity(user) else { return Decision::NoOpinion(String::new()) };
        if node.is_empty() {
            return Decision::NoOpinion(format!("unknown node for user {:?}", user.name));
        }
        let decided = match (request.group.as_str(), request.resource.as_str()) {
            _ if !request.is_resource => self.by_rules(request),
            ("", "secrets" | "configmaps") => self.read(node, request),
            ("", "persistentvolumeclaims") if request.subresource == "status" => {
                match request.verb.as_ref() {
                    "update" | "patch" => self.related(node, request),
                    _ => Err("can only get/update/patch this type".to_owned()),
                }
            }
            ("", "persistentvolumeclaims" | "persistentvolumes")
            | ("resource.k8s.io", "resourceclaims")
            | ("storage.k8s.io", "volumeattachments") => self.get(node, request),
            ("", "serviceaccounts") if request.verb == "get" => self.get(node, request),
            ("", "serviceaccounts") => self.token(node, request),
            ("certificates.k8s.io", "podcertificaterequests") => self.certificate(node, request),
            ("coordination.k8s.io", "leases") => lease(node, request),
            ("storage.k8s.io", "csinodes") => csi_node(node, request),
            ("resource.k8s.io", "resourceslices") => self.slice(node, request),
            ("", "nodes") => own_node(node, request),
            ("", "pods") => self.pod(node, request),
            _ => self.by_rules(request),
        };
        match decided {
            Ok(()) => Decision::Allow,
            Err(reason) => Decision::NoOpinion(reason),
        }
    }

    fn by_rules(&self, request: &RequestInfo) -> Result<(), String> {
        if any_allows(&self.rules, request) { Ok(()) } else { Err(String::new()) }
    }

    fn related(&self, node: &str, request: &RequestInfo) -> Result<(), String> {
        if request.name.is_empty() {
            return Err("No Object name found".to_owned());
        }
        if self.graph.reaches(node, &request.resource, &request.namespace, &request.name) {
            return Ok(());
        }
        Err(format!("no relationship found between node '{node}' and this object"))
    }

    fn read(&self, node: &str, request: &RequestInfo) -> Result<(), String> {
        if !["get", "list", "watch"].contains(&request.verb.as_ref()) {
            return Err("can only read resources of this type".to_owned());
        }
        if !request.subresource.is_empty() {
            return Err("cannot read subresource".to_owned());
        }
        if request.namespace.is_empty() {
            return Err("can only read namespaced object of this type".to_owned());
        }
        self.related(node, request)
    }

    fn get(&self, node: &str, request: &RequestInfo) -> Result<(), String> {
        if request.verb != "get" {
            return Err("can only get individual resources of this type".to_owned());
        }
        if !request.subresource.is_empty() {
            return Err("cannot get subresource".to_owned());
        }
        self.related(node, request)
    }

    fn token(&self, node: &str, request: &RequestInfo) -> Result<(), String> {
        if request.verb != "create" || request.name.is_empty() {
            return Err("can only create tokens for individual service accounts".to_owned());
        }
        if request.subresource != "token" {
            return Err("can only create token subresource of serviceaccount".to_owned());
        }
        self.related(node, request)
    }

    /// What a node may do with the requests for certificates of its Pods; whether a new one is of a
    /// Pod of its own is for NodeRestriction to see.
    fn certificate(&self, node: &str, request: &RequestInfo) -> Result<(), String> {
        if !request.subresource.is_empty() {
            let why = "nodes may not access the status subresource of PodCertificateRequests";
            return Err(why.to_owned());
        }
        match request.verb.as_ref() {
            "create" => Ok(()),
            "get" => self.related(node, request),
            "list" | "watch" if selects(request, "spec.nodeName", node) => Ok(()),
            "list" | "watch" => {
                Err("can only list/watch podcertificaterequests with nodeName field \
                 selector"
                    .to_owned())
            }
            verb => Err(format!("nodes may not {verb} PodCertificateRequests")),
        }
    }

    fn pod(&self, node: &str, request: &RequestInfo) -> Result<(), String> {
        match (request.subresource.as_str(), request.verb.as_ref()) {
            ("", "get") => self.get(node, request),
            ("", "list" | "watch") => {
                if selects(request, "spec.nodeName", node) {
                    return Ok(());
                }
                if request.name.is_empty() {
                    let why = "can only list/watch pods with spec.nodeName field selector";
                    return Err(why.to_owned());
                }
                self.related(node, request)
            }
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                Ok(())
            }
            _ => Err(String::new()),
        }
    }

    fn slice(&self, node: &str, request: &RequestInfo) -> Result<(), String> {
        if !request.subresource.is_empty() {
            return Err("cannot authorize ResourceSlice subresources".to_owned());
        }
        match request.verb.as_ref() {
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(node, request),
            "watch" | "list" | "deletecollection" if selects(request, "nodeName", node) => Ok(()),
            "watch" | "list" | "deletecollection" => Err("can only list/watch/deletecollection \
                 resourceslices with nodeName field selector"
                .to_owned()),
            _ => {
                Err("only the following verbs are allowed for a ResourceSlice: get, watch, list, \
                      create, update, patch, delete, deletecollection"
                    .to_owned())
            }
        }
    }
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> Decision {
        self.now(user, request)
    }

    fn decide(&self, user: &UserInfo, request: &RequestInfo) -> Option<Decision> {
        Some(self.now(user, request))
    }

    fn rules(&self, user: &UserInfo, _: &str) -> UserRules {
        let incomplete = match identity(user) {
            Some(_) => "node authorizer does not support user rule resolution".to_owned(),
            None => String::new(),
        };
        UserRules { incomplete, ..UserRules::default() }
    }
}

/// Whether the request asks only for objects whose field has this value.
fn selects(request: &RequestInfo, field: &str, value: &str) -> bool {
    let Ok(query) = FieldQuery::parse(&request.field_selector) else { return false };
    query.exact(field) == Some(value)
}

fn lease(node: &str, request: &RequestInfo) -> Result<(), String> {
    let verb = request.verb.as_ref();
    if !["get", "create", "update", "patch", "delete"].contains(&verb) {
        return Err("can only get, create, update, patch, or delete a node lease".to_owned());
    }
    if request.namespace != LEASES {
        return Err(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    if verb != "create" && request.name != node {
        let why = "can only access node lease with the same name as the requesting node";
        return Err(why.to_owned());
    }
    Ok(())
}

fn csi_node(node: &str, request: &RequestInfo) -> Result<(), String> {
    let verb = request.verb.as_ref();
    if !["get", "create", "update", "patch", "delete"].contains(&verb) {
        return Err("can only get, create, update, patch, or delete a CSINode".to_owned());
    }
    if !request.subresource.is_empty() {
        return Err("cannot authorize CSINode subresources".to_owned());
    }
    if verb != "create" && request.name != node {
        return Err("can only access CSINode with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn own_node(node: &str, request: &RequestInfo) -> Result<(), String> {
    match (request.subresource.as_str(), request.verb.as_ref()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") => match request.name.as_str() {
            name if name == node => Ok(()),
            "" => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
            name => Err(format!("node '{node}' cannot read '{name}', only its own Node object")),
        },
        _ => Err(String::new()),
    }
}
