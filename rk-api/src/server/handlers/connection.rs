//! Admission of connections: what webhooks and policies see of exec, attach, port-forward and
//! proxies is their options.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value, json};

use super::Call;
use crate::{
    resources::{Object, Resource},
    server::{admission::Operation, query::Query, status::Result},
};

/// The options of a connection, which admission takes for an object.
#[derive(Clone, Debug)]
struct Options {
    tree: Value,
    /// They have none.
    meta: ObjectMeta,
}

impl Object for Options {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
    fn boxed_clone(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }
    fn encode(&self) -> std::result::Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&self.tree)
    }
    fn to_value(&self) -> std::result::Result<Value, serde_json::Error> {
        Ok(self.tree.clone())
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

impl<'a> Call<'a> {
    /// Asks admission whether the connection may come about.
    ///
    /// # Errors
    /// When it may not.
    pub(super) async fn admit_connection(self, resource: &'a Arc<Resource>) -> Result<()> {
        let info = self.context.info();
        let tree = options(&resource.kind, &info.subresource, self.context.query(), &info.rest);
        let mut object: Box<dyn Object> = Box::new(Options { tree, meta: ObjectMeta::default() });
        let target = self.target(resource, false);
        self.server.registry.admit(&target, Operation::Connect, &mut object).await
    }
}

/// The options that a query stands for.
fn options(kind: &str, subresource: &str, query: &Query, rest: &[String]) -> Value {
    let mut options = Map::new();
    let name = match subresource {
        "exec" => "Exec",
        "attach" => "Attach",
        "portforward" => "PortForward",
        _ => "Proxy",
    };
    options.insert("kind".to_owned(), format!("{kind}{name}Options").into());
    options.insert("apiVersion".to_owned(), "v1".into());
    match subresource {
        "exec" | "attach" => {
            for flag in ["stdin", "stdout", "stderr", "tty"] {
                if query.flag(flag) {
                    options.insert(flag.to_owned(), true.into());
                }
            }
            let container = query.get("container").filter(|name| !name.is_empty());
            options.extend(container.map(|name| ("container".to_owned(), name.into())));
            let command: Vec<_> = query.all("command").collect();
            if subresource == "exec" && !command.is_empty() {
                options.insert("command".to_owned(), json!(command));
            }
        }
        "portforward" => {
            let ports: Vec<i32> = query.all("ports").filter_map(|port| port.parse().ok()).collect();
            if !ports.is_empty() {
                options.insert("ports".to_owned(), json!(ports));
            }
        }
        _ if rest.is_empty() => {}
        _ => drop(options.insert("path".to_owned(), rest.join("/").into())),
    }
    Value::Object(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_a_connection_are_those_of_its_query() {
        let query = Query::parse(Some("stdin=true&tty=0&container=c&command=ls&command=-l"));
        assert_eq!(
            options("Pod", "exec", &query, &[]),
            json!({
                "kind": "PodExecOptions",
                "apiVersion": "v1",
                "stdin": true,
                "container": "c",
                "command": ["ls", "-l"],
            })
        );
        let path = ["a".to_owned(), "b".to_owned()];
        assert_eq!(
            options("Service", "proxy", &query, &path),
            json!({ "kind": "ServiceProxyOptions", "apiVersion": "v1", "path": "a/b" })
        );
    }
}
