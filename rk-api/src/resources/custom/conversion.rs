//! Conversion between versions by a webhook: what it is asked, and what it may answer
//! (apiextensions' `apiserver/conversion`).

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinitionSpec, WebhookClientConfig,
};
use serde_json::{Map, Value, json};

use crate::{
    field::Path,
    meta::object::{validate_annotations, validate_labels},
};

/// How a definition's webhook is asked.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Where it is.
    pub(crate) client: WebhookClientConfig,
    review: Review,
}

/// The version of the question: the first that the webhook takes, of those that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Review {
    V1,
    V1Beta1,
}

impl Review {
    fn api_version(self) -> &'static str {
        match self {
            Review::V1 => "apiextensions.k8s.io/v1",
            Review::V1Beta1 => "apiextensions.k8s.io/v1beta1",
        }
    }
}

/// Why an answer was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConversionError(pub String);

fn refuse<T>(why: impl Into<String>) -> Result<T, ConversionError> {
    Err(ConversionError(why.into()))
}

impl Webhook {
    /// The webhook of a definition, if it converts by one.
    pub(super) fn of(spec: &CustomResourceDefinitionSpec) -> Option<Self> {
        let conversion = spec.conversion.as_ref().filter(|it| it.strategy == "Webhook")?;
        let webhook = conversion.webhook.as_ref()?;
        let review = webhook.conversion_review_versions.iter().find_map(|version| {
            Some(match version.as_str() {
                "v1" => Review::V1,
                "v1beta1" => Review::V1Beta1,
                _ => return None,
            })
        });
        Some(Self { client: webhook.client_config.clone()?, review: review? })
    }

    /// What the webhook is asked: to convert these objects.
    pub(crate) fn request(&self, uid: &str, objects: &[Value], desired: &str) -> Value {
        json!({
            "kind": "ConversionReview",
            "apiVersion": self.review.api_version(),
            "request": {"uid": uid, "desiredAPIVersion": desired, "objects": objects},
        })
    }

    /// The converted objects of an answer, in the order of the originals.
    pub(crate) fn response(
        &self,
        uid: &str,
        answer: Value,
        originals: &[Value],
        desired: &str,
    ) -> Result<Vec<Value>, ConversionError> {
        let kind = originals.first().map(describe).unwrap_or_default();
        let failed = |error: ConversionError| {
            ConversionError(format!("conversion webhook for {kind} failed: {error}"))
        };
        let converted = self.converted(uid, answer).map_err(failed)?;
        if converted.len() != originals.len() {
            return refuse(format!(
                "conversion webhook for {kind} returned {} objects, expected {}",
                converted.len(),
                originals.len()
            ));
        }
        let pairs = originals.iter().zip(converted).enumerate();
        let checked = pairs.map(|(index, (original, converted))| {
            check(original, converted, desired).map_err(|error| {
                ConversionError(format!(
                    "conversion webhook for {kind} returned invalid converted object at index \
                     {index}: {error}"
                ))
            })
        });
        checked.collect()
    }

    fn converted(&self, uid: &str, mut answer: Value) -> Result<Vec<Value>, ConversionError> {
        let text = |value: &Value, path: &str| {
            value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let found = (text(&answer, "/apiVersion"), text(&answer, "/kind"));
        let expected = (self.review.api_version(), "ConversionReview");
        if self.review == Review::V1 && (found.0.as_str(), found.1.as_str()) != expected {
            return refuse(format!(
                "expected webhook response of {}, Kind={}, got {}, Kind={}",
                expected.0, expected.1, found.0, found.1
            ));
        }
        let Some(mut response) = answer.get_mut("response").map(Value::take) else {
            return refuse("no response provided");
        };
        if response.is_null() {
            return refuse("no response provided");
        }
        let found = text(&response, "/uid");
        if self.review == Review::V1 && found != uid {
            return refuse(format!("expected response.uid={uid:?}, got {found:?}"));
        }
        let status = text(&response, "/result/status");
        if status != "Success" {
            let message = text(&response, "/result/message");
            return refuse(match message.as_str() {
                "" => format!("response.result.status was '{status}', not 'Success'"),
                message => message.to_owned(),
            });
        }
        match response.get_mut("convertedObjects").map(Value::take) {
            Some(Value::Array(objects)) => Ok(objects),
            _ => Ok(Vec::new()),
        }
    }
}

/// `example.com/v1, Kind=Widget`
fn describe(object: &Value) -> String {
    format!("{}, Kind={}", text(object, "apiVersion"), text(object, "kind"))
}

fn text<'v>(object: &'v Value, name: &str) -> &'v str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Refuses an object that is not what was asked for, and puts back what a webhook may not change:
/// all metadata but labels and annotations.
fn check(original: &Value, mut converted: Value, desired: &str) -> Result<Value, ConversionError> {
    if text(&converted, "apiVersion") != desired {
        return refuse(format!(
            "invalid groupVersion (expected {desired}, received {})",
            text(&converted, "apiVersion")
        ));
    }
    if text(&converted, "kind") != text(original, "kind") {
        return refuse(format!(
            "invalid kind (expected {}, received {})",
            text(original, "kind"),
            text(&converted, "kind")
        ));
    }
    for (name, words) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let of =
            |object: &Value| text(object.get("metadata").unwrap_or(&Value::Null), name).to_owned();
        let (expected, found) = (of(original), of(&converted));
        if expected != found {
            return refuse(format!("must have the same {words}: {expected} != {found}"));
        }
    }
    let metadata = restore(original, &converted)?;
    if let Value::Object(members) = &mut converted {
        members.insert("metadata".to_owned(), Value::Object(metadata));
    }
    Ok(converted)
}

/// The original's metadata with the labels and annotations of the converted object.
fn restore(original: &Value, converted: &Value) -> Result<Map<String, Value>, ConversionError> {
    let answered = match converted.get("metadata") {
        None => return refuse("missing metadata in converted object"),
        Some(Value::Object(metadata)) => metadata,
        Some(_) => return refuse("invalid metadata in converted object"),
    };
    let mut metadata =
        original.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    for name in ["labels", "annotations"] {
        let entries = match answered.get(name) {
            None | Some(Value::Null) => {
                metadata.remove(name);
                continue;
            }
            Some(Value::Object(entries)) => entries,
            Some(_) => return refuse(format!("invalid metadata.{name} in converted object")),
        };
        if metadata.get(name).and_then(Value::as_object) != Some(entries) {
            let text = |(key, value): (&String, &Value)| match value {
                Value::String(text) => Ok((key.clone(), text.clone())),
                _ => refuse(format!("metadata.{name}[{key}] must be a string in converted object")),
            };
            let texts = entries.iter().map(text).collect::<Result<_, _>>()?;
            let at = Path::new("metadata");
            let errors = match name {
                "labels" => validate_labels(Some(&texts), &at.child("labels")),
                _ => validate_annotations(Some(&texts), &at.child("annotations")),
            };
            if let Some(error) = errors.first() {
                return refuse(error.to_string());
            }
        }
        metadata.insert(name.to_owned(), Value::Object(entries.clone()));
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(review: Review) -> Webhook {
        Webhook { client: WebhookClientConfig::default(), review }
    }

    fn original() -> Value {
        json!({
            "apiVersion": "example.com/v1", "kind": "Widget",
            "metadata": {"name": "x", "uid": "1", "labels": {"a": "b"}, "generation": 3},
        })
    }

    fn answer(converted: Value) -> Value {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
            "response": {
                "uid": "u", "result": {"status": "Success"}, "convertedObjects": [converted],
            },
        })
    }

    fn convert(answer: Value) -> Result<Vec<Value>, String> {
        let converted = webhook(Review::V1).response("u", answer, &[original()], "example.com/v2");
        converted.map_err(|error| error.to_string())
    }

    #[test]
    fn labels_are_the_webhooks_and_other_metadata_is_not() {
        let converted = convert(answer(json!({
            "apiVersion": "example.com/v2", "kind": "Widget",
            "metadata": {"name": "x", "uid": "1", "labels": {"c": "d"}, "generation": 99},
            "spec": {"new": true},
        })));
        assert_eq!(
            converted.unwrap(),
            [json!({
                "apiVersion": "example.com/v2", "kind": "Widget",
                "metadata": {"name": "x", "uid": "1", "labels": {"c": "d"}, "generation": 3},
                "spec": {"new": true},
            })]
        );
    }

    #[track_caller]
    fn refused(answer: Value, why: &str) {
        assert_eq!(convert(answer).unwrap_err(), why);
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        let at_0 = "conversion webhook for example.com/v1, Kind=Widget returned invalid converted \
                    object at index 0";
        let of = |version: &str, name: &str| {
            answer(json!({
                "apiVersion": version, "kind": "Widget", "metadata": {"name": name, "uid": "1"},
            }))
        };
        refused(
            of("example.com/v1", "x"),
            &format!(
                "{at_0}: invalid groupVersion (expected example.com/v2, received example.com/v1)"
            ),
        );
        refused(of("example.com/v2", "y"), &format!("{at_0}: must have the same name: x != y"));
        let failed = "conversion webhook for example.com/v1, Kind=Widget failed";
        let mut other = of("example.com/v2", "x");
        other["response"]["uid"] = json!("v");
        refused(other, &format!("{failed}: expected response.uid=\"u\", got \"v\""));
        let mut wrong = of("example.com/v2", "x");
        wrong["response"]["result"] = json!({"status": "Failure", "message": "cannot"});
        refused(wrong, &format!("{failed}: cannot"));
        let mut few = of("example.com/v2", "x");
        few["response"]["convertedObjects"] = json!([]);
        refused(
            few,
            "conversion webhook for example.com/v1, Kind=Widget returned 0 objects, expected 1",
        );
    }

    #[test]
    fn an_old_review_need_not_repeat_the_uid() {
        let mut answer = answer(json!({
            "apiVersion": "example.com/v2", "kind": "Widget", "metadata": {"name": "x", "uid": "1"},
        }));
        answer["response"]["uid"] = Value::Null;
        let old = webhook(Review::V1Beta1);
        assert!(old.response("u", answer, &[original()], "example.com/v2").is_ok());
    }
}
