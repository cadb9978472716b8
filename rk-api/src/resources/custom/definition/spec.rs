//! What a definition's spec must be like (apiextensions' `validation.go`).
//!
//! Kubernetes judges the form in which it holds a definition: what all versions have in common is
//! there said once for all of them. Errors name the fields of that form, so `spec.validation` is the
//! schema of every version, and a webhook is at `spec.conversion.webhookClientConfig`.

use std::collections::HashSet;

use k8s_openapi::{
    api::admissionregistration::v1::ServiceReference,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionNames,
        CustomResourceDefinitionSpec, CustomResourceDefinitionVersion, WebhookClientConfig,
    },
};
use serde_json::json;

use super::{ESTABLISHED, any, columns, is_true, schema, structural};
use crate::{
    field::Path,
    meta::names,
    resources::{
        admission,
        check::{Errors, list, text},
    },
};

/// Versions of ConversionReview that this server speaks.
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];

/// What a change is forgiven because it was so before.
#[derive(Debug)]
pub(super) struct Leniency {
    /// A version may lack a schema.
    pub no_schema: bool,
    /// A schema need not be structural.
    pub not_structural: bool,
    /// A type may be none of OpenAPI's.
    pub odd_types: bool,
    /// Items of sets and keys of maps may be what they should not.
    pub odd_lists: bool,
    /// No version of ConversionReview need be known.
    pub odd_reviews: bool,
    /// The certificates of a webhook may be none.
    pub odd_certificates: bool,
    /// Versions that may have too many selectable fields.
    pub selectable: HashSet<String>,
    /// Versions with rules that may cost too much.
    pub unchanged: HashSet<String>,
}

impl Leniency {
    /// A new definition is forgiven nothing, except that it cannot be established with bad
    /// certificates.
    pub(super) fn of_new() -> Self {
        Self {
            no_schema: false,
            not_structural: false,
            odd_types: false,
            odd_lists: false,
            odd_reviews: false,
            odd_certificates: true,
            selectable: HashSet::new(),
            unchanged: HashSet::new(),
        }
    }

    /// What `v1beta1` never asked for.
    pub(super) fn of_beta() -> Self {
        Self {
            no_schema: true,
            not_structural: true,
            odd_types: true,
            odd_lists: true,
            odd_reviews: false,
            odd_certificates: true,
            selectable: HashSet::new(),
            unchanged: HashSet::new(),
        }
    }

    /// What a change is forgiven.
    pub(super) fn of_change(
        new: &CustomResourceDefinition,
        old: &CustomResourceDefinition,
    ) -> Self {
        let schemas = || old.spec.versions.iter().filter_map(schema_of);
        let conversion = old.spec.conversion.as_ref().and_then(|it| it.webhook.as_ref());
        let reviews = conversion.map(|it| it.conversion_review_versions.as_slice());
        let bundle = conversion
            .and_then(|it| it.client_config.as_ref()?.ca_bundle.as_ref())
            .map(|bundle| bundle.0.as_slice());
        let before = |version: &CustomResourceDefinitionVersion| {
            old.spec.versions.iter().find(|other| other.name == version.name)
        };
        let unchanged = |same: fn(
            &CustomResourceDefinitionVersion,
            &CustomResourceDefinitionVersion,
        ) -> bool| {
            let versions = new.spec.versions.iter();
            let versions = versions.filter(|it| before(it).is_some_and(|old| same(it, old)));
            versions.map(|version| version.name.clone()).collect::<HashSet<_>>()
        };
        Self {
            no_schema: old.spec.versions.iter().any(|version| schema_of(version).is_none()),
            not_structural: schemas().any(structural::is_wrong),
            odd_types: schemas().any(|schema| any(schema, schema::has_odd_type)),
            odd_lists: schemas().any(|schema| any(schema, schema::has_odd_list)),
            odd_reviews: reviews.is_some_and(|versions| {
                !versions.is_empty() && !versions.iter().any(|version| is_known_review(version))
            }),
            odd_certificates: !is_true(old, ESTABLISHED)
                || bundle.is_some_and(|bundle| !bundle.is_empty() && !is_certificates(bundle)),
            selectable: unchanged(|new, old| new.selectable_fields == old.selectable_fields),
            unchanged: unchanged(|new, old| new.schema == old.schema),
        }
    }
}

/// What all versions have in common, and is said once.
struct Shared {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl Shared {
    fn of(versions: &[CustomResourceDefinitionVersion]) -> Self {
        let Some(first) = versions.first() else {
            return Self { schema: false, subresources: false, columns: false, selectable: false };
        };
        let all =
            |same: &dyn Fn(&CustomResourceDefinitionVersion) -> bool| versions.iter().all(same);
        let columns = |version: &CustomResourceDefinitionVersion| {
            list(&version.additional_printer_columns).to_vec()
        };
        let fields =
            |version: &CustomResourceDefinitionVersion| list(&version.selectable_fields).to_vec();
        Self {
            schema: all(&|version| version.schema == first.schema),
            subresources: all(&|version| version.subresources == first.subresources),
            columns: all(&|version| columns(version) == columns(first)),
            selectable: all(&|version| fields(version) == fields(first)),
        }
    }
}

fn schema_of(
    version: &CustomResourceDefinitionVersion,
) -> Option<&k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps> {
    version.schema.as_ref()?.open_api_v3_schema.as_ref()
}

fn has_status(version: &CustomResourceDefinitionVersion) -> bool {
    version.subresources.as_ref().is_some_and(|subresources| subresources.status.is_some())
}

/// What is wrong with a spec.
pub(super) fn validate(
    errors: &mut Errors,
    spec: &CustomResourceDefinitionSpec,
    leniency: &Leniency,
) {
    let path = Path::new("spec");
    group(errors, &spec.group, &path.child("group"));
    errors.required_one_of(&path.child("scope"), &spec.scope, &["Cluster", "Namespaced"]);
    let at = path.child("versions");
    schemas_are_there(errors, spec, leniency, &at);
    let preserves = spec.preserve_unknown_fields == Some(true);
    let schemas = || spec.versions.iter().filter_map(schema_of);
    let has_defaults = schemas().any(|schema| any(schema, |it| it.default.is_some()));
    if has_defaults && preserves {
        let detail = "must be false in order to use defaults in the schema";
        errors.invalid(&path.child("preserveUnknownFields"), true, detail);
    }
    let must_be_structural = !leniency.not_structural
        || !preserves
        || has_defaults
        || schemas().any(|schema| any(schema, schema::has_extensions));
    let shared = Shared::of(&spec.versions);
    let judge = Judge { leniency, must_be_structural };
    for (index, version) in spec.versions.iter().enumerate() {
        let at = at.index(index);
        let wrong = names::dns1035_label(&version.name, false);
        if !wrong.is_empty() {
            errors.invalid(&at.child("name"), version.name.as_str(), wrong.join(","));
        }
        deprecation(errors, version, &at.child("deprecationWarning"));
        if !shared.schema {
            judge.schema(errors, version, has_status(version), &at.child("schema"));
        }
        if !shared.subresources {
            judge.subresources(errors, version, &at.child("subresources"));
        }
        if !shared.columns {
            judge.columns(errors, version, &at.child("additionalPrinterColumns"));
        }
        if !shared.selectable {
            judge.selectable(errors, version, &at.child("selectableFields"));
        }
    }
    versions(errors, spec, &at);
    let named = path.child("names");
    for (field, name) in [
        ("plural", spec.names.plural.as_str()),
        ("singular", text(&spec.names.singular)),
        ("kind", spec.names.kind.as_str()),
        ("listKind", text(&spec.names.list_kind)),
    ] {
        if name.is_empty() {
            errors.required(&named.child(field), "");
        }
    }
    names(errors, &spec.names, &named);
    if let Some(first) = spec.versions.first() {
        let any_status = spec.versions.iter().any(has_status);
        if shared.schema {
            judge.schema(errors, first, any_status, &path.child("validation"));
        }
        if shared.subresources {
            judge.subresources(errors, first, &path.child("subresources"));
        }
        if shared.columns {
            judge.columns(errors, first, &path.child("additionalPrinterColumns"));
        }
        if shared.selectable {
            judge.selectable(errors, first, &path.child("selectableFields"));
        }
    }
    if let Some(conversion) = &spec.conversion {
        self::conversion(errors, conversion, preserves, leniency, &path.child("conversion"));
    }
}

fn group(errors: &mut Errors, group: &str, path: &Path) {
    let wrong = names::dns_subdomain(group, false);
    if group.is_empty() {
        errors.required(path, "");
    } else if !wrong.is_empty() {
        errors.invalid(path, group, wrong.join(","));
    } else if !group.contains('.') {
        errors.invalid(path, group, "should be a domain with at least one dot");
    }
}

fn schemas_are_there(
    errors: &mut Errors,
    spec: &CustomResourceDefinitionSpec,
    leniency: &Leniency,
    path: &Path,
) {
    let preserves = spec.preserve_unknown_fields == Some(true);
    for (index, version) in spec.versions.iter().enumerate() {
        if schema_of(version).is_some() {
            continue;
        }
        let at = path.index(index);
        let at = at.child("schema.openAPIV3Schema");
        if !leniency.no_schema {
            errors.required(&at, "");
        } else if !preserves && version.served {
            errors.required(&at, "because otherwise all fields are pruned");
        }
    }
}

fn deprecation(errors: &mut Errors, version: &CustomResourceDefinitionVersion, path: &Path) {
    let Some(warning) = version.deprecation_warning.as_deref() else { return };
    let mut wrong = |detail: String| errors.invalid(path, warning, detail);
    if version.deprecated != Some(true) {
        return wrong("can only be set for deprecated versions".to_owned());
    }
    if warning.len() > 256 {
        wrong("must be <= 256 characters long".to_owned());
    }
    if warning.is_empty() {
        wrong("must not be an empty string".to_owned());
    }
    let unprintable = |letter: char| letter.is_control() || letter.is_whitespace() && letter != ' ';
    if let Some((at, _)) = warning.char_indices().find(|(_, letter)| unprintable(*letter)) {
        wrong(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index \
             {at}"
        ));
    }
}

fn versions(errors: &mut Errors, spec: &CustomResourceDefinitionSpec, path: &Path) {
    let mut seen = HashSet::new();
    if !spec.versions.iter().all(|version| seen.insert(&version.name)) {
        errors.invalid(path, json!(spec.versions), "must contain unique version names");
    }
    if spec.versions.iter().filter(|version| version.storage).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.invalid(path, json!(spec.versions), detail);
    }
}

/// What is wrong with the form of names. Which of them must be there is not judged.
pub(super) fn names(errors: &mut Errors, names: &CustomResourceDefinitionNames, path: &Path) {
    let mut label = |at: &Path, name: &str, form: &str, words: &str| {
        let wrong = names::dns1035_label(form, false);
        if !name.is_empty() && !wrong.is_empty() {
            errors.invalid(at, name, format!("{words}{}", wrong.join(",")));
        }
    };
    const MIXED_CASE: &str = "may have mixed case, but should otherwise match: ";
    for (field, name) in [("plural", names.plural.as_str()), ("singular", text(&names.singular))] {
        label(&path.child(field), name, name, "");
    }
    for (field, name) in [("kind", names.kind.as_str()), ("listKind", text(&names.list_kind))] {
        label(&path.child(field), name, &name.to_lowercase(), MIXED_CASE);
    }
    for (field, all) in [("shortNames", &names.short_names), ("categories", &names.categories)] {
        if field == "categories" && !names.kind.is_empty() && names.kind == text(&names.list_kind) {
            let detail = "kind and listKind may not be the same";
            errors.invalid(&path.child("listKind"), names.kind.as_str(), detail);
        }
        for (index, name) in all.iter().flatten().enumerate() {
            let wrong = names::dns1035_label(name, false);
            if !wrong.is_empty() {
                errors.invalid(&path.child(field).index(index), name.as_str(), wrong.join(","));
            }
        }
    }
}

/// Judges what a version says, or all of them.
struct Judge<'a> {
    leniency: &'a Leniency,
    must_be_structural: bool,
}

impl Judge<'_> {
    fn schema(
        &self,
        errors: &mut Errors,
        version: &CustomResourceDefinitionVersion,
        has_status: bool,
        path: &Path,
    ) {
        if let Some(schema) = schema_of(version) {
            let structural = self.must_be_structural;
            let at = path.child("openAPIV3Schema");
            schema::validate(
                errors,
                schema,
                &version.name,
                has_status,
                structural,
                self.leniency,
                &at,
            );
        }
    }

    fn subresources(
        &self,
        errors: &mut Errors,
        version: &CustomResourceDefinitionVersion,
        path: &Path,
    ) {
        if let Some(subresources) = &version.subresources {
            columns::subresources(errors, subresources, path);
        }
    }

    fn columns(&self, errors: &mut Errors, version: &CustomResourceDefinitionVersion, path: &Path) {
        for (index, column) in version.additional_printer_columns.iter().flatten().enumerate() {
            columns::column(errors, column, &path.index(index));
        }
    }

    fn selectable(
        &self,
        errors: &mut Errors,
        version: &CustomResourceDefinitionVersion,
        path: &Path,
    ) {
        let fields = list(&version.selectable_fields);
        if fields.is_empty() {
            return;
        }
        match schema_of(version) {
            Some(schema) => {
                let unchanged = self.leniency.selectable.contains(&version.name);
                columns::selectable(errors, fields, schema, unchanged, path);
            }
            None => {
                let detail =
                    "may only be set when `version.schema.openAPIV3Schema` is not included";
                errors.invalid(path, "", detail);
            }
        }
    }
}

fn is_known_review(version: &str) -> bool {
    REVIEW_VERSIONS.contains(&version)
}

fn conversion(
    errors: &mut Errors,
    conversion: &CustomResourceConversion,
    preserves: bool,
    leniency: &Leniency,
    path: &Path,
) {
    let strategy = conversion.strategy.as_str();
    if strategy != "None" && preserves {
        let detail = "must be None if spec.preserveUnknownFields is true";
        errors.invalid(&path.child("strategy"), strategy, detail);
    }
    errors.required_one_of(&path.child("strategy"), strategy, &["None", "Webhook"]);
    let webhook = conversion.webhook.as_ref();
    let client = webhook.and_then(|webhook| webhook.client_config.as_ref());
    let reviews = webhook.map(|it| it.conversion_review_versions.as_slice()).unwrap_or_default();
    let (at_client, at_reviews) =
        (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    if strategy != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        if client.is_some() {
            errors.forbidden(&at_client, detail);
        }
        if !reviews.is_empty() {
            errors.forbidden(&at_reviews, detail);
        }
        return;
    }
    match client {
        None => errors.required(&at_client, "required when strategy is set to Webhook"),
        Some(client) => self::client(errors, client, leniency, &at_client),
    }
    review_versions(errors, reviews, leniency, &at_reviews);
}

fn client(errors: &mut Errors, client: &WebhookClientConfig, leniency: &Leniency, path: &Path) {
    match (&client.url, &client.service) {
        (Some(url), None) => admission::url(errors, url, &path.child("url")),
        (None, Some(service)) => {
            let reference = ServiceReference {
                name: service.name.clone(),
                namespace: service.namespace.clone(),
                path: service.path.clone(),
                port: service.port,
            };
            admission::service(errors, &reference, &path.child("service"));
        }
        _ => errors.required(path, "exactly one of url or service is required"),
    }
    let bundle = client.ca_bundle.as_ref().map(|bundle| bundle.0.as_slice()).unwrap_or_default();
    if !bundle.is_empty() && !leniency.odd_certificates && !is_certificates(bundle) {
        let detail = "unable to load root certificates: unable to parse bytes as PEM block";
        errors.invalid(&path.child("caBundle"), String::from_utf8_lossy(bundle), detail);
    }
}

/// Whether the bytes are certificates in PEM.
pub(super) fn is_certificates(bundle: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bundle);
    let blank = text.trim().is_empty();
    blank
        || text.contains("-----BEGIN CERTIFICATE-----")
            && text.contains("-----END CERTIFICATE-----")
}

fn review_versions(errors: &mut Errors, versions: &[String], leniency: &Leniency, path: &Path) {
    if versions.is_empty() {
        return errors.required(path, "");
    }
    let mut seen = HashSet::new();
    for (index, version) in versions.iter().enumerate() {
        let at = path.index(index);
        if !seen.insert(version) {
            errors.invalid(&at, version.as_str(), "duplicate version");
            continue;
        }
        errors.form(&at, version.as_str(), names::dns1035_label(version, false));
    }
    if !leniency.odd_reviews && !versions.iter().any(|version| is_known_review(version)) {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.invalid(path, json!(versions), detail);
    }
}
