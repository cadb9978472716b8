//! Schemas of versions that the API types no longer have: those of a newer version of the same
//! kind, under the old names, with what is different.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::{REFERENCE_PREFIX, referenced};

/// A package of types, the newer one that is like it, and the kinds that it is for.
type Package = (&'static str, &'static str, &'static [&'static str]);

const PACKAGES: &[Package] = &[
    (
        "admissionregistration.v1beta1",
        "admissionregistration.v1",
        &["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"],
    ),
    ("apiextensions.v1beta1", "apiextensions.v1", &["CustomResourceDefinition"]),
    ("autoscaling.v2beta2", "autoscaling.v2", &["HorizontalPodAutoscaler"]),
    ("batch.v1beta1", "batch.v1", &["CronJob"]),
    ("certificates.v1beta1", "certificates.v1", &["CertificateSigningRequest"]),
    ("coordination.v1beta1", "coordination.v1", &["Lease"]),
    ("discovery.v1beta1", "discovery.v1", &["EndpointSlice"]),
    ("events.v1beta1", "events.v1", &["Event"]),
    ("extensions.v1beta1", "networking.v1", &["Ingress"]),
    ("networking.v1beta1", "networking.v1", &["Ingress", "IngressClass"]),
    ("node.v1beta1", "node.v1", &["RuntimeClass"]),
    ("policy.v1beta1", "policy.v1", &["Eviction", "PodDisruptionBudget"]),
    ("rbac.v1beta1", "rbac.v1", &["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"]),
    ("scheduling.v1beta1", "scheduling.v1", &["PriorityClass"]),
    (
        "storage.v1beta1",
        "storage.v1",
        &["CSIDriver", "CSINode", "CSIStorageCapacity", "StorageClass", "VolumeAttachment"],
    ),
];

const PREFIX: &str = "io.k8s.api.";
const EXTENSIONS_PREFIX: &str = "io.k8s.apiextensions-apiserver.pkg.apis.";

/// What the names of the types of a package begin with.
fn prefix(package: &str) -> &'static str {
    if package.starts_with("apiextensions.") { EXTENSIONS_PREFIX } else { PREFIX }
}

/// A name without its prefix: package and type.
fn short(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX).or_else(|| name.strip_prefix(EXTENSIONS_PREFIX))
}

/// The names of all such kinds.
pub(super) fn kinds() -> impl Iterator<Item = String> {
    PACKAGES.iter().flat_map(|(package, _, kinds)| {
        kinds.iter().map(move |kind| format!("{}{package}.{kind}", prefix(package)))
    })
}

/// Whether `name` is one of them.
pub(super) fn is_kind(name: &str) -> bool {
    package(name).is_some_and(|((_, _, kinds), kind)| kinds.contains(&kind))
}

/// The type of the newer version that a type is like; the type itself where there is none.
pub(super) fn newer(name: &str) -> Cow<'_, str> {
    match package(name) {
        Some(((_, newer, _), kind)) => format!("{}{newer}.{kind}", prefix(newer)).into(),
        None => name.into(),
    }
}

fn package(name: &str) -> Option<(&'static Package, &str)> {
    let (package, kind) = short(name)?.rsplit_once('.')?;
    PACKAGES.iter().find(|(older, _, _)| *older == package).map(|package| (package, kind))
}

/// Adds the schema of an older kind, and of the types in its package that it refers to, made from
/// the newer ones.
pub(super) fn add(kind: &str, definitions: &mut Map<String, Value>) {
    let Some(((older, base, _), _)) = package(kind) else { return };
    let mut wanted = vec![kind.to_owned()];
    while let Some(name) = wanted.pop() {
        if definitions.contains_key(&name) {
            continue;
        }
        let Some(mut definition) = definitions.get(newer(&name).as_ref()).cloned() else {
            continue;
        };
        refer(&mut definition, base, older, &mut wanted);
        adjust(&name, &mut definition);
        definitions.insert(name, definition);
    }
}

/// Lets references to the package `base` point to `older`, and notes where to.
fn refer(schema: &mut Value, base: &str, older: &str, found: &mut Vec<String>) {
    let target = referenced(schema).and_then(|name| {
        let kind = short(name)?.strip_prefix(base)?.strip_prefix('.')?;
        Some(format!("{}{older}.{kind}", prefix(older)))
    });
    if let Some(target) = target {
        schema["$ref"] = format!("{REFERENCE_PREFIX}{target}").into();
        found.push(target);
    }
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(|inner| refer(inner, base, older, found));
        }
        Value::Array(items) => items.iter_mut().for_each(|inner| refer(inner, base, older, found)),
        _ => {}
    }
}

/// Makes the differences.
fn adjust(name: &str, definition: &mut Value) {
    let Some((package, kind)) = short(name).and_then(|name| name.rsplit_once('.')) else {
        return;
    };
    match (package, kind) {
        ("networking.v1beta1" | "extensions.v1beta1", "IngressSpec") => {
            rename(definition, "defaultBackend", "backend");
        }
        ("networking.v1beta1" | "extensions.v1beta1", "HTTPIngressPath") => {
            optional(definition, &["pathType"]);
        }
        ("networking.v1beta1" | "extensions.v1beta1", "IngressBackend") => {
            let port = format!("{REFERENCE_PREFIX}io.k8s.apimachinery.pkg.util.intstr.IntOrString");
            _ = remove(definition, "service");
            definition["properties"]["serviceName"] =
                json!({"type": "string", "description": "The name of the Service."});
            definition["properties"]["servicePort"] =
                json!({"$ref": port, "description": "The port of the Service."});
        }
        ("discovery.v1beta1", "Endpoint") => {
            rename(definition, "deprecatedTopology", "topology");
            _ = remove(definition, "zone");
        }
        ("autoscaling.v2beta2", "HorizontalPodAutoscalerCondition") => {
            _ = remove(definition, "observedGeneration");
        }
        ("autoscaling.v2beta2", "HPAScalingRules") => _ = remove(definition, "tolerance"),
        ("certificates.v1beta1", "CertificateSigningRequestSpec") => {
            optional(definition, &["signerName"]);
        }
        ("certificates.v1beta1", "CertificateSigningRequestCondition") => {
            optional(definition, &["status"]);
        }
        ("apiextensions.v1beta1", "CustomResourceDefinitionSpec") => one_for_all(definition),
        ("apiextensions.v1beta1", "CustomResourceColumnDefinition") => {
            rename(definition, "jsonPath", "JSONPath");
            definition["required"] = json!(["JSONPath", "name", "type"]);
        }
        ("apiextensions.v1beta1", "CustomResourceConversion") => {
            let client = reference("WebhookClientConfig", "How to call the webhook.");
            _ = remove(definition, "webhook");
            definition["properties"]["webhookClientConfig"] = client;
            definition["properties"]["conversionReviewVersions"] = json!({
                "type": "array", "items": {"type": "string"},
                "description": "The versions of ConversionReview that the webhook understands, \
                                the preferred one first.",
            });
        }
        ("admissionregistration.v1beta1", "MutatingWebhook" | "ValidatingWebhook") => {
            optional(definition, &["admissionReviewVersions", "sideEffects"]);
        }
        _ => {}
    }
}

/// Adds what a definition can say for all of its versions at once.
fn one_for_all(definition: &mut Value) {
    optional(definition, &["versions"]);
    let list = |kind: &str, description: &str| {
        json!({
            "type": "array", "description": description,
            "items": {"$ref": format!("{REFERENCE_PREFIX}{EXTENSIONS_PREFIX}apiextensions.v1beta1.{kind}")},
        })
    };
    let fields = [
        (
            "version",
            json!({"type": "string", "description": "The first version, where there is no list of them."}),
        ),
        ("validation", reference("CustomResourceValidation", "The schema of all versions.")),
        (
            "subresources",
            reference("CustomResourceSubresources", "The subresources of all versions."),
        ),
        (
            "additionalPrinterColumns",
            list("CustomResourceColumnDefinition", "The columns of all versions."),
        ),
        ("selectableFields", list("SelectableField", "The selectable fields of all versions.")),
    ];
    for (name, field) in fields {
        definition["properties"][name] = field;
    }
}

/// A reference to an old type of definitions.
fn reference(kind: &str, description: &str) -> Value {
    let target = format!("{EXTENSIONS_PREFIX}apiextensions.v1beta1.{kind}");
    json!({"$ref": format!("{REFERENCE_PREFIX}{target}"), "description": description})
}

fn remove(definition: &mut Value, field: &str) -> Option<Value> {
    optional(definition, &[field]);
    definition.get_mut("properties")?.as_object_mut()?.remove(field)
}

fn rename(definition: &mut Value, from: &str, to: &str) {
    if let Some(field) = remove(definition, from) {
        definition["properties"][to] = field;
    }
}

fn optional(definition: &mut Value, fields: &[&str]) {
    let Some(definition) = definition.as_object_mut() else { return };
    if let Some(Value::Array(required)) = definition.get_mut("required") {
        required.retain(|name| !fields.iter().any(|field| name == field));
        if required.is_empty() {
            definition.remove("required");
        }
    }
}
