//! PodPreset: what Pods of a namespace get when they are created (`settings.k8s.io/v1alpha1`).
//!
//! Kubernetes had it until 1.19, as an alpha version that is not served by default; nor is it here
//! (see [`Resources::with_pod_presets`](super::Resources::with_pod_presets)).

use std::borrow::Cow;

use k8s_openapi::{
    Metadata, NamespaceResourceScope,
    api::core::v1::{
        Container, EnvFromSource, EnvVar, PodSpec, PodTemplateSpec, Volume, VolumeMount,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeStruct};

use super::{
    Kind, Resource,
    check::Errors,
    pod::{defaults, validation::injected},
    row::Row,
};
use crate::field::{ErrorList, Path};

/// The row of PodPreset.
pub(super) fn row() -> Resource {
    Row::of::<PodPresets>().done()
}

/// What Pods that it selects get when they are created.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodPreset {
    pub metadata: ObjectMeta,
    pub spec: PodPresetSpec,
}

/// What they get.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodPresetSpec {
    /// Which Pods; an empty one selects all.
    pub selector: LabelSelector,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<EnvVar>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_from: Option<Vec<EnvFromSource>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<Volume>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_mounts: Option<Vec<VolumeMount>>,
}

/// How a PodPreset behaves.
#[derive(Debug, Default)]
pub(super) struct PodPresets;

impl Kind for PodPresets {
    type Object = PodPreset;

    /// What it gives is defaulted as the fields of a Pod are, so that equal ones compare equal.
    fn default(preset: &mut PodPreset) {
        let spec = &mut preset.spec;
        let container = Container { env: spec.env.take(), ..Container::default() };
        let pod = PodSpec {
            containers: vec![container],
            volumes: spec.volumes.take(),
            ..PodSpec::default()
        };
        let mut template = PodTemplateSpec { spec: Some(pod), ..PodTemplateSpec::default() };
        defaults::template(&mut template);
        let mut pod = template.spec.unwrap_or_default();
        spec.env = pod.containers.pop().and_then(|container| container.env);
        spec.volumes = pod.volumes;
    }

    fn validate(preset: &PodPreset) -> ErrorList {
        let (spec, path) = (&preset.spec, Path::new("spec"));
        let mut errors = Errors::default();
        let lists = [
            spec.env.as_ref().is_none_or(Vec::is_empty),
            spec.env_from.as_ref().is_none_or(Vec::is_empty),
            spec.volumes.as_ref().is_none_or(Vec::is_empty),
            spec.volume_mounts.as_ref().is_none_or(Vec::is_empty),
        ];
        if lists.into_iter().all(|is_empty| is_empty) {
            let fields = path.child("volumes.env.envFrom.volumeMounts");
            errors.required(&fields, "must specify at least one");
        }
        injected(&mut errors, spec, &path);
        errors.0
    }
}

// === The API type, as k8s-openapi has others ===

impl k8s_openapi::Resource for PodPreset {
    const API_VERSION: &'static str = "settings.k8s.io/v1alpha1";
    const GROUP: &'static str = "settings.k8s.io";
    const KIND: &'static str = "PodPreset";
    const VERSION: &'static str = "v1alpha1";
    const URL_PATH_SEGMENT: &'static str = "podpresets";
    type Scope = NamespaceResourceScope;
}

impl Metadata for PodPreset {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Serialize for PodPreset {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use k8s_openapi::Resource;
        let mut state = serializer.serialize_struct(Self::KIND, 4)?;
        state.serialize_field("apiVersion", Self::API_VERSION)?;
        state.serialize_field("kind", Self::KIND)?;
        state.serialize_field("metadata", &self.metadata)?;
        state.serialize_field("spec", &self.spec)?;
        state.end()
    }
}

impl<'de> Deserialize<'de> for PodPreset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use k8s_openapi::Resource;
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", rename = "PodPreset", default)]
        struct Plain {
            api_version: Option<String>,
            kind: Option<String>,
            metadata: ObjectMeta,
            spec: PodPresetSpec,
        }
        let Plain { api_version, kind, metadata, spec } = Plain::deserialize(deserializer)?;
        for (found, expected) in [(api_version, Self::API_VERSION), (kind, Self::KIND)] {
            if let Some(found) = found.filter(|found| found != expected) {
                return Err(de::Error::invalid_value(de::Unexpected::Str(&found), &expected));
            }
        }
        Ok(Self { metadata, spec })
    }
}

/// A reference to a type's schema, with a description of its own.
fn described<T: JsonSchema>(generator: &mut SchemaGenerator, description: &str) -> Schema {
    let mut schema = generator.subschema_for::<T>();
    schema.insert("description".to_owned(), description.into());
    schema
}

fn list<T: JsonSchema>(generator: &mut SchemaGenerator, description: &str) -> Schema {
    let items = generator.subschema_for::<T>();
    json_schema!({ "description": description, "type": "array", "items": items })
}

impl JsonSchema for PodPreset {
    fn schema_name() -> Cow<'static, str> {
        "io.k8s.api.settings.v1alpha1.PodPreset".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "PodPreset says what Pods get that are created in its namespace.",
            "type": "object",
            "properties": {
                "apiVersion": { "description": "The group and version of this object.", "type": "string" },
                "kind": { "description": "Always PodPreset.", "type": "string" },
                "metadata": described::<ObjectMeta>(generator, "The object's metadata."),
                "spec": described::<PodPresetSpec>(generator, "Which Pods, and what they get."),
            },
        })
    }
}

impl JsonSchema for PodPresetSpec {
    fn schema_name() -> Cow<'static, str> {
        "io.k8s.api.settings.v1alpha1.PodPresetSpec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "PodPresetSpec says which Pods get what.",
            "type": "object",
            "properties": {
                "selector": described::<LabelSelector>(generator, "Selects Pods by their labels; an empty one selects all."),
                "env": list::<EnvVar>(generator, "Environment variables for each container."),
                "envFrom": list::<EnvFromSource>(generator, "Where each container gets more environment variables from."),
                "volumes": list::<Volume>(generator, "Volumes for the Pod."),
                "volumeMounts": list::<VolumeMount>(generator, "Where each container mounts them."),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::resources::Resources;

    fn errors(spec: Value) -> Vec<String> {
        let preset = json!({ "metadata": { "name": "p" }, "spec": spec });
        let preset: PodPreset = serde_json::from_value(preset).unwrap();
        PodPresets::validate(&preset).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_preset_gives_something_that_a_pod_can_have() {
        assert_eq!(errors(json!({ "env": [{ "name": "A", "value": "1" }] })), [""; 0]);
        assert_eq!(
            errors(json!({})),
            ["spec.volumes.env.envFrom.volumeMounts: Required value: must specify at least one"]
        );
        let wrong = json!({
            "selector": { "matchExpressions": [{ "key": "a", "operator": "Like" }] },
            "env": [{ "name": "" }],
            "envFrom": [{}],
            "volumes": [{ "name": "V", "emptyDir": {} }],
            "volumeMounts": [{ "name": "v", "mountPath": "" }],
        });
        let found = errors(wrong);
        for field in [
            "spec.selector.matchExpressions[0].operator",
            "spec.env[0].name",
            "spec.envFrom",
            "spec.volumes[0].name",
            "spec.volumeMounts[0].mountPath",
        ] {
            assert!(found.iter().any(|error| error.starts_with(field)), "{field}: {found:?}");
        }
    }

    #[test]
    fn it_is_served_only_when_it_is_asked_for() {
        let (group, version) = ("settings.k8s.io", "v1alpha1");
        let builtin = Resources::builtin();
        assert!(builtin.get(group, version, "podpresets").is_none());
        let more = builtin.with_pod_presets();
        let row = more.get(group, version, "podpresets").unwrap();
        let body = br#"{"metadata": {"name": "p"}, "spec": {"envv": []}}"#;
        let decoded = row.strategy.decode(body).unwrap();
        assert_eq!(decoded.strict_errors, ["unknown field \"spec.envv\""]);
        let encoded = String::from_utf8(decoded.object.encode().unwrap()).unwrap();
        assert!(
            encoded.starts_with(r#"{"apiVersion":"settings.k8s.io/v1alpha1","kind":"PodPreset","#)
        );
    }
}
