//! What a request is about, read from its method and path alone.

use std::borrow::Cow;

use http::Method;

use super::status::{ApiError, Result};

/// A request's subject, in the terms of authorization (kube-apiserver's `RequestInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether it is about an object or a collection, and not about a path such as `/healthz`.
    pub is_resource: bool,
    /// The decoded path.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; the
    /// method in lower case for other paths. Reviews may ask about any verb.
    pub verb: Cow<'static, str>,
    /// The group; empty for core.
    pub group: String,
    /// The version.
    pub version: String,
    /// The namespace; empty for none or all. A Namespace is in the namespace of its own name.
    pub namespace: String,
    /// The plural.
    pub resource: String,
    /// The path below the object, without further parts; empty for none.
    pub subresource: String,
    /// The object; empty for a collection.
    pub name: String,
    /// What follows the subresource, as in `services/x/proxy/a/b`.
    pub rest: Vec<String>,
    /// The field selector of a list, watch or deletecollection, as the query has it.
    pub field_selector: String,
}

impl RequestInfo {
    /// Reads a method and an undecoded path. Whether `watch` is in the query decides between
    /// listing and watching, and a selector for one name is taken as that name.
    pub fn parse(
        method: &Method,
        path: &str,
        watch: bool,
        selected_name: Option<&str>,
    ) -> Result<Self> {
        let path = percent_decode(path)
            .ok_or_else(|| ApiError::bad_request("the path is not valid percent-encoded UTF-8"))?;
        let mut info = Self { verb: method_in_lower_case(method).into(), ..Self::default() };
        info.read_path(method, &path, watch, selected_name);
        info.path = path;
        Ok(info)
    }

    fn read_path(&mut self, method: &Method, path: &str, watch: bool, selected: Option<&str>) {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let mut parts = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                self.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                self.group = (*group).to_owned();
                self.version = (*version).to_owned();
                rest
            }
            _ => return,
        };
        self.is_resource = true;
        self.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        }
        .into();
        // The deprecated form of watching, still used by old clients: /api/v1/watch/pods.
        let legacy_watch = parts.len() > 1 && parts[0] == "watch";
        if legacy_watch {
            self.verb = "watch".into();
            parts = &parts[1..];
        }
        if let ["namespaces", namespace, rest @ ..] = parts {
            self.namespace = (*namespace).to_owned();
            // What is below a namespace is either a subresource of it or lives in it.
            if !rest.is_empty() && !["status", "finalize"].contains(&rest[0]) {
                parts = rest;
            }
        }
        self.resource = parts.first().map(|part| (*part).to_owned()).unwrap_or_default();
        self.name = parts.get(1).map(|part| (*part).to_owned()).unwrap_or_default();
        self.subresource = parts.get(2).map(|part| (*part).to_owned()).unwrap_or_default();
        self.rest = parts.iter().skip(3).map(|part| (*part).to_owned()).collect();
        if self.name.is_empty() && self.verb == "get" {
            self.verb = if watch { "watch" } else { "list" }.into();
        }
        if self.name.is_empty() && self.verb == "delete" {
            self.verb = "deletecollection".into();
        }
        if self.name.is_empty()
            && self.is_collection()
            && let Some(name) = selected
        {
            self.name = name.to_owned();
        }
    }

    /// Whether the path names a collection: the name, if any, came from a field selector.
    pub fn is_collection(&self) -> bool {
        ["list", "watch", "deletecollection"].contains(&self.verb.as_ref())
    }

    /// `pods` or `pods/log`.
    pub fn resource_and_subresource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

fn method_in_lower_case(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "other",
    }
}

/// `%2F` and the like undone; `None` when that gives no UTF-8 or an escape is malformed.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
            out.push((high * 16 + low) as u8);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: Method, path: &str, verb: &str, namespace: &str, resource: &str, name: &str) {
        let info = RequestInfo::parse(&method, path, false, None).unwrap();
        let found = (
            info.verb.as_ref(),
            info.namespace.as_str(),
            info.resource_and_subresource(),
            info.name,
        );
        assert_eq!(found, (verb, namespace, resource.to_owned(), name.to_owned()), "{path}");
    }

    #[test]
    fn a_path_names_group_namespace_resource_and_name() {
        check(Method::GET, "/api/v1/pods", "list", "", "pods", "");
        check(Method::GET, "/api/v1/namespaces/a/pods/b", "get", "a", "pods", "b");
        check(Method::GET, "/api/v1/namespaces/a/pods/b/log", "get", "a", "pods/log", "b");
        check(Method::GET, "/api/v1/namespaces/a", "get", "a", "namespaces", "a");
        check(
            Method::PUT,
            "/api/v1/namespaces/a/finalize",
            "update",
            "a",
            "namespaces/finalize",
            "a",
        );
        check(
            Method::DELETE,
            "/apis/apps/v1/namespaces/a/deployments",
            "deletecollection",
            "a",
            "deployments",
            "",
        );
        check(Method::GET, "/api/v1/watch/namespaces/a/pods/b", "watch", "a", "pods", "b");
        check(Method::GET, "/apis/apps/v1", "get", "", "", "");
    }

    #[test]
    fn escapes_are_decoded_and_bad_ones_refused() {
        assert_eq!(percent_decode("a%2Fb").as_deref(), Some("a/b"));
        assert_eq!(percent_decode("%zz"), None);
        assert_eq!(percent_decode("%f"), None);
        assert_eq!(percent_decode("%ff"), None);
    }
}
