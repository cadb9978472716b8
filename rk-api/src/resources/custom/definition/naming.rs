//! What a definition's status says: whose names are accepted, whether it is served.
//!
//! Pure: from definitions to the status that one of them should have. The words are those of
//! apiextensions' controllers (naming, establishing, nonstructuralschema, apiapproval).

use std::collections::HashSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionCondition, CustomResourceDefinitionNames,
};

use super::{
    APPROVED, ESTABLISHED, NAMES_ACCEPTED, NON_STRUCTURAL,
    approval::{self, Approval},
    condition, is_true,
    spec::is_certificates,
    structural,
};
use crate::{
    clock,
    field::{FieldError, Path},
    resources::check::{list, text},
};

/// The names that the other definitions of a group have taken.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

impl Taken {
    /// The names that were accepted of the others.
    pub(crate) fn by<'a>(others: impl Iterator<Item = &'a CustomResourceDefinitionNames>) -> Self {
        let mut taken = Self::default();
        for names in others {
            taken.resources.extend([names.plural.clone(), text(&names.singular).to_owned()]);
            taken.resources.extend(list(&names.short_names).iter().cloned());
            taken.kinds.extend([names.kind.clone(), text(&names.list_kind).to_owned()]);
        }
        taken
    }
}

/// The names that a definition may use.
pub(crate) fn accepted(
    definition: &CustomResourceDefinition,
) -> Option<&CustomResourceDefinitionNames> {
    definition.status.as_ref()?.accepted_names.as_ref()
}

/// Brings the status of a definition up to date. Says whether it changed.
pub(crate) fn update_status(definition: &mut CustomResourceDefinition, taken: &Taken) -> bool {
    let before = definition.status.clone();
    accept_names(definition, taken);
    establish(definition);
    note_schema(definition);
    note_approval(definition);
    let status = definition.status.get_or_insert_default();
    status.conditions.get_or_insert_default();
    definition.status != before
}

/// Sets a condition; its time is that of the last change of its status.
pub(crate) fn set_condition(
    definition: &mut CustomResourceDefinition,
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
) {
    let conditions = definition.status.get_or_insert_default().conditions.get_or_insert_default();
    let known = conditions.iter_mut().find(|condition| condition.type_ == type_);
    let condition = match known {
        Some(condition) => condition,
        None => {
            conditions.push(CustomResourceDefinitionCondition {
                type_: type_.to_owned(),
                ..CustomResourceDefinitionCondition::default()
            });
            let Some(last) = conditions.last_mut() else { return };
            last
        }
    };
    if condition.status != status || condition.last_transition_time.is_none() {
        condition.last_transition_time = Some(clock::now_seconds());
    }
    status.clone_into(&mut condition.status);
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message.to_owned());
}

/// Accepts the names that nobody else has. A name that somebody has stays what it was.
fn accept_names(definition: &mut CustomResourceDefinition, taken: &Taken) {
    let wanted = definition.spec.names.clone();
    let had = definition.status.as_ref().and_then(|it| it.accepted_names.clone());
    let had = had.unwrap_or_default();
    let mut names = had.clone();
    let mut conflict = None;
    let free =
        |wanted: &str, had: &str, taken: &HashSet<String>| wanted == had || !taken.contains(wanted);
    let in_use = |name: &str| format!("{name:?} is already in use");
    if free(&wanted.plural, &had.plural, &taken.resources) {
        names.plural.clone_from(&wanted.plural);
    } else {
        conflict = Some(("PluralConflict", in_use(&wanted.plural)));
    }
    if free(text(&wanted.singular), text(&had.singular), &taken.resources) {
        names.singular.clone_from(&wanted.singular);
    } else {
        conflict = Some(("SingularConflict", in_use(text(&wanted.singular))));
    }
    match short_names_in_use(&wanted, &had, taken) {
        None => names.short_names.clone_from(&wanted.short_names),
        Some(message) => conflict = Some(("ShortNamesConflict", message)),
    }
    if free(&wanted.kind, &had.kind, &taken.kinds) {
        names.kind.clone_from(&wanted.kind);
    } else {
        conflict = Some(("KindConflict", in_use(&wanted.kind)));
    }
    if free(text(&wanted.list_kind), text(&had.list_kind), &taken.kinds) {
        names.list_kind.clone_from(&wanted.list_kind);
    } else {
        conflict = Some(("ListKindConflict", in_use(text(&wanted.list_kind))));
    }
    names.categories = wanted.categories;
    definition.status.get_or_insert_default().accepted_names = Some(names);
    let (status, reason, message) = match &conflict {
        None => ("True", "NoConflicts", "no conflicts found"),
        Some((reason, message)) => ("False", *reason, message.as_str()),
    };
    set_condition(definition, NAMES_ACCEPTED, status, reason, message);
}

fn short_names_in_use(
    wanted: &CustomResourceDefinitionNames,
    had: &CustomResourceDefinitionNames,
    taken: &Taken,
) -> Option<String> {
    let had = list(&had.short_names);
    let in_use: Vec<String> = list(&wanted.short_names)
        .iter()
        .filter(|name| !had.contains(name) && taken.resources.contains(name.as_str()))
        .map(|name| format!("{name:?} is already in use"))
        .collect();
    match in_use.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(format!("[{}]", several.join(", "))),
    }
}

/// Once established, a definition stays so.
fn establish(definition: &mut CustomResourceDefinition) {
    if is_true(definition, ESTABLISHED) {
        return;
    }
    let (status, reason, message) = if !is_true(definition, NAMES_ACCEPTED) {
        ("False", "NotAccepted", "not all names are accepted")
    } else if has_bad_certificates(definition) {
        ("False", "InvalidCABundle", "The conversion webhook CABundle is invalid")
    } else {
        ("True", "InitialNamesAccepted", "the initial names have been accepted")
    };
    set_condition(definition, ESTABLISHED, status, reason, message);
}

fn has_bad_certificates(definition: &CustomResourceDefinition) -> bool {
    let webhook = definition.spec.conversion.as_ref().and_then(|it| it.webhook.as_ref());
    let client = webhook.and_then(|webhook| webhook.client_config.as_ref());
    let bundle = client.and_then(|client| client.ca_bundle.as_ref());
    bundle.is_some_and(|bundle| !bundle.0.is_empty() && !is_certificates(&bundle.0))
}

/// Says what is not structural about the schemas of an old definition.
fn note_schema(definition: &mut CustomResourceDefinition) {
    let mut errors = Vec::new();
    if definition.spec.preserve_unknown_fields == Some(true) {
        let at = Path::new("spec.preserveUnknownFields");
        errors.push(FieldError::invalid(&at, true, "must be false"));
    }
    for (index, version) in definition.spec.versions.iter().enumerate() {
        let schema = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
        if let Some(schema) = schema {
            let at = Path::new("spec.versions").index(index);
            errors.extend(structural::validate(schema, &at.child("schema.openAPIV3Schema")));
        }
    }
    let messages: Vec<String> = errors.iter().map(FieldError::to_string).collect();
    let message = match messages.as_slice() {
        [] => {
            if let Some(status) = &mut definition.status
                && let Some(conditions) = &mut status.conditions
            {
                conditions.retain(|condition| condition.type_ != NON_STRUCTURAL);
            }
            return;
        }
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    set_condition(definition, NON_STRUCTURAL, "True", "Violations", &message);
}

fn note_approval(definition: &mut CustomResourceDefinition) {
    if !approval::is_protected(&definition.spec.group) {
        return;
    }
    let (approval, why) = approval::of(definition);
    let (status, reason) = match approval {
        Approval::Invalid => ("False", "InvalidAnnotation"),
        Approval::Missing => ("False", "MissingAnnotation"),
        Approval::Approved => ("True", "ApprovedAnnotation"),
        Approval::Bypassed => ("False", "UnapprovedAnnotation"),
    };
    let same = condition(definition, APPROVED).is_some_and(|condition| {
        (condition.status.as_str(), text(&condition.reason)) == (status, reason)
            && text(&condition.message) == why
    });
    if !same {
        set_condition(definition, APPROVED, status, reason, &why);
    }
}
