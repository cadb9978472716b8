//! `x-kubernetes-validations` of custom objects.

use serde_json::Value;

use super::Version;
use crate::{
    cel::{Budget, rules::Rules},
    field::{ErrorList, FieldError, Path, Reason},
};

impl Version {
    /// The rules in its schema, if there are any.
    pub(super) fn rules(&self) -> Option<&Rules> {
        let compile = || {
            // Most schemas have none: their source tells at once.
            self.source.contains("x-kubernetes-validations").then_some(())?;
            Rules::compile(&self.openapi(), &Path::root(), true).0
        };
        self.rules.get_or_init(compile).as_ref()
    }

    /// Adds what rules say of an object that was `old` before, and returns what they forgive. They
    /// are only asked about objects that look as they should.
    pub(super) fn judge_rules(
        &self,
        errors: &mut ErrorList,
        tree: &Value,
        old: Option<&Value>,
    ) -> Vec<FieldError> {
        let Some(rules) = self.rules() else { return Vec::new() };
        let blocks = |error: &FieldError| {
            use Reason::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
            matches!(error.reason, NotSupported | Required | TooLong | TooMany | TypeInvalid)
        };
        if errors.iter().any(blocks) {
            let detail = "some validation rules were not checked because the object was invalid; \
                          correct the existing errors to complete validation";
            let error = FieldError::invalid(&Path::new("<nil>"), Value::Null, detail);
            errors.push(error);
            return Vec::new();
        }
        let verdict = rules.validate(tree, old, &mut Budget::default());
        errors.extend(verdict.errors);
        verdict.warnings
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::resources::{Part, custom::rows::Family};

    fn family() -> Family {
        let definition = json!({
            "metadata": {"name": "widgets.example.com"},
            "spec": {
                "group": "example.com",
                "scope": "Namespaced",
                "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
                "versions": [{
                    "name": "v1", "served": true, "storage": true,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-validations": [
                            {"rule": "self.metadata.name != 'forbidden'"},
                        ],
                        "properties": {
                            "spec": {
                                "type": "object",
                                "required": ["size"],
                                "properties": {"size": {"type": "integer"}},
                                "x-kubernetes-validations": [
                                    {"rule": "self.size >= oldSelf.size", "message": "cannot shrink"},
                                ],
                            },
                            "status": {
                                "type": "object",
                                "properties": {"seen": {"type": "integer"}},
                                "x-kubernetes-validations": [{"rule": "self.seen > 0"}],
                            },
                        },
                    }},
                }],
            },
        });
        Family::of(&serde_json::from_value(definition).unwrap()).unwrap()
    }

    /// What is wrong with an object that was `old` before.
    fn judged(name: &str, size: Option<i64>, seen: i64, old: Option<(i64, Part)>) -> Vec<String> {
        let family = family();
        let strategy = &family.stored.strategy;
        let decode = |size: Option<i64>, seen: i64| {
            let spec = size.map_or(json!({}), |size| json!({"size": size}));
            let object = json!({
                "apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name},
                "spec": spec, "status": {"seen": seen},
            });
            strategy.decode(object.to_string().as_bytes()).unwrap().object
        };
        let new = decode(size, seen);
        let errors = match old {
            None => strategy.validate_create(&*new),
            Some((size, part)) => strategy.validate_update(&*new, &*decode(Some(size), 1), part),
        };
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_are_asked_about_every_write() {
        assert_eq!(judged("a", Some(1), 1, None), [] as [&str; 0]);
        assert_eq!(
            judged("forbidden", Some(1), 1, None),
            ["<nil>: Invalid value: failed rule: self.metadata.name != 'forbidden'"]
        );
        assert_eq!(
            judged("a", Some(1), 1, Some((2, Part::Main))),
            ["spec: Invalid value: cannot shrink"]
        );
        assert_eq!(
            judged("a", Some(2), 0, Some((2, Part::Status))),
            ["status: Invalid value: failed rule: self.seen > 0"]
        );
    }

    #[test]
    fn rules_are_not_asked_about_what_is_malformed() {
        let errors = judged("a", None, 1, None);
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert_eq!(
            errors[1],
            "<nil>: Invalid value: null: some validation rules were not checked because the object \
             was invalid; correct the existing errors to complete validation"
        );
    }
}
