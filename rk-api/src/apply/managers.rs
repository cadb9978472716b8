//! Who manages which fields: `metadata.managedFields`.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{compare::Comparison, path::PathElement, set::FieldSet};

/// The most managers of updates that an object keeps; the oldest of more are joined.
const UPDATE_MANAGERS_MAX: usize = 10;

/// The manager that joined ones become.
const ANCIENT: &str = "ancient-changes";

/// How a manager came to its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply: what it no longer applies is removed.
    Apply,
    /// By a create, an update or another patch.
    Update,
}

/// The fields of one manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The manager's name.
    pub manager: String,
    /// How it came to the fields.
    pub operation: Operation,
    /// The version that the fields are of.
    pub api_version: String,
    /// The subresource that it wrote; empty for the object itself.
    pub subresource: String,
    /// When it last changed one of them (RFC 3339).
    pub time: Option<String>,
    /// The fields.
    pub fields: FieldSet,
}

/// What tells entries apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManagerId {
    /// The manager's name.
    pub manager: String,
    /// How it came to its fields.
    pub operation: Operation,
    /// The version, for updates. A manager that applies has one entry, whatever the version.
    pub api_version: String,
    /// The subresource.
    pub subresource: String,
}

/// All entries of an object, in the order in which they are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managers {
    entries: Vec<Entry>,
}

/// Fields that a write through some endpoint cannot change, so that nobody owns them through it.
#[derive(Clone, Debug)]
pub enum Filter {
    /// All but these and what is below them.
    Exclude(FieldSet),
    /// Only these, what is below and above them; `None` stands for any element.
    Include(Vec<Vec<Option<PathElement>>>),
}

/// One write, as managers see it.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Who writes.
    pub manager: &'a str,
    /// The version of the object that was sent.
    pub api_version: &'a str,
    /// The subresource that was written; empty for the object itself.
    pub subresource: &'a str,
    /// What the endpoint cannot change.
    pub filter: &'a Filter,
    /// The time (RFC 3339).
    pub now: &'a str,
}

// === impl Managers ===

impl Managers {
    /// The entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether nothing is managed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// From entries, in any order.
    pub fn new(entries: Vec<Entry>) -> Self {
        let mut managers = Self { entries };
        managers.sort();
        managers
    }

    /// Reads `metadata.managedFields`.
    ///
    /// # Errors
    /// What is wrong with an entry, in Kubernetes' words.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        let wires: Option<Vec<Wire<'_>>> =
            serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let mut entries: BTreeMap<ManagerId, Entry> = BTreeMap::new();
        for (at, wire) in wires.unwrap_or_default().into_iter().enumerate() {
            let entry = wire.entry(at)?;
            entries.insert(entry.id(), entry);
        }
        Ok(Self::new(entries.into_values().collect()))
    }

    /// As `metadata.managedFields`; empty when nothing is managed.
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        if self.entries.is_empty() {
            return out;
        }
        out.push('[');
        for (at, entry) in self.entries.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            entry.write_head(&mut out);
            entry.fields.write_json(false, &mut out);
            entry.write_tail(&mut out);
        }
        out.push(']');
        out
    }

    /// Whether both have the same entries, times aside.
    pub fn same_fields(&self, other: &Self) -> bool {
        let find = |entry: &Entry| other.get(&entry.id()).is_some_and(|e| e.fields == entry.fields);
        self.entries.len() == other.entries.len() && self.entries.iter().all(find)
    }

    pub(super) fn get(&self, id: &ManagerId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id() == *id)
    }

    pub(super) fn take(&mut self, id: &ManagerId) -> Option<Entry> {
        let at = self.entries.iter().position(|entry| entry.id() == *id)?;
        Some(self.entries.remove(at))
    }

    pub(super) fn put(&mut self, entry: Entry) {
        self.take(&entry.id());
        if !entry.fields.is_empty() {
            self.entries.push(entry);
        }
    }

    /// Changes each entry; those that have no fields then are dropped.
    pub fn retain_fields(&mut self, mut change: impl FnMut(&mut Entry) -> bool) {
        self.entries.retain_mut(|entry| change(entry) && !entry.fields.is_empty());
    }

    /// Records an update, which takes its fields from everybody else. `compare` tells what it
    /// changed, as seen in the version of an entry; `None` when that version is not served any
    /// more, which drops the entry.
    pub fn record_update<'c>(
        &mut self,
        write: &Write<'_>,
        compare: impl Fn(&str) -> Option<Cow<'c, Comparison>>,
    ) {
        let pass = |found: Cow<'c, Comparison>| write.filter.comparison(found.into_owned());
        let Some(own) = compare(write.api_version).map(pass) else { return };
        let mut others: BTreeMap<String, Option<Comparison>> = BTreeMap::new();
        self.retain_fields(|entry| {
            let comparison = if entry.api_version == write.api_version {
                Some(&own)
            } else {
                let found = others.entry(entry.api_version.clone());
                found.or_insert_with_key(|version| compare(version).map(pass)).as_ref()
            };
            let Some(comparison) = comparison else { return false };
            entry.give_up(comparison);
            true
        });
        let mut fields = own.set().difference(stripped());
        if fields.is_empty() {
            self.sort();
            return;
        }
        let id = write.id(Operation::Update);
        if let Some(before) = self.take(&id) {
            fields = fields.union(&before.fields);
        }
        self.entries.push(write.entry(Operation::Update, fields));
        self.join_oldest();
        self.sort();
    }

    /// Joins the oldest managers of updates until there are at most [`UPDATE_MANAGERS_MAX`].
    fn join_oldest(&mut self) {
        let mut updaters: Vec<ManagerId> = self
            .entries
            .iter()
            .filter(|entry| entry.operation == Operation::Update)
            .map(Entry::id)
            .collect();
        let mut count = updaters.len();
        if count <= UPDATE_MANAGERS_MAX {
            return;
        }
        updaters.sort_by_key(|id| {
            let seconds = self.get(id).map(|entry| entry.seconds()).unwrap_or_default();
            (seconds, id.to_json())
        });
        let mut first_of: BTreeMap<String, ManagerId> = BTreeMap::new();
        for id in updaters {
            if count <= UPDATE_MANAGERS_MAX {
                return;
            }
            let Some(first) = first_of.get(&id.api_version) else {
                first_of.insert(id.api_version.clone(), id);
                continue;
            };
            let joined_id =
                ManagerId { manager: ANCIENT.to_owned(), subresource: String::new(), ..id.clone() };
            let first = first.clone();
            let joined = self.take(&joined_id).or_else(|| self.take(&first));
            let (Some(joined), Some(entry)) = (joined, self.take(&id)) else { continue };
            self.entries.push(Entry {
                manager: joined_id.manager,
                subresource: joined_id.subresource,
                fields: joined.fields.union(&entry.fields),
                ..entry
            });
            count -= 1;
        }
    }

    pub(super) fn sort(&mut self) {
        if !self.entries.is_sorted_by_key(Entry::place) {
            self.entries.sort_by(|a, b| a.place().cmp(&b.place()));
        }
    }
}

// === impl Entry ===

impl Entry {
    /// What tells it apart.
    pub fn id(&self) -> ManagerId {
        ManagerId {
            manager: self.manager.clone(),
            operation: self.operation,
            api_version: match self.operation {
                Operation::Apply => String::new(),
                Operation::Update => self.api_version.clone(),
            },
            subresource: self.subresource.clone(),
        }
    }

    /// Takes away what somebody else set or removed.
    pub(super) fn give_up(&mut self, comparison: &Comparison) {
        for changed in [&comparison.modified, &comparison.added, &comparison.removed] {
            self.fields.subtract(changed);
        }
    }

    /// Where it stands among others.
    fn place(&self) -> (Operation, i64, &str, &str, &str) {
        (self.operation, self.seconds(), &self.manager, &self.api_version, &self.subresource)
    }

    fn seconds(&self) -> i64 {
        let time = self.time.as_deref().and_then(|time| time.parse::<jiff::Timestamp>().ok());
        time.map_or(0, |time| time.as_second())
    }

    fn write_head(&self, out: &mut String) {
        let operation = match self.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        write_head(&self.manager, operation, &self.api_version, self.time.as_deref(), out);
    }

    fn write_tail(&self, out: &mut String) {
        write_tail(&self.subresource, out);
    }
}

/// The members of an entry that come before its fields.
pub(super) fn write_head(
    manager: &str,
    operation: &str,
    api_version: &str,
    time: Option<&str>,
    out: &mut String,
) {
    out.push('{');
    if !manager.is_empty() {
        out.push_str("\"manager\":");
        out.push_str(&Value::from(manager).to_string());
        out.push(',');
    }
    out.push_str("\"operation\":\"");
    out.push_str(operation);
    out.push_str("\",\"apiVersion\":");
    out.push_str(&Value::from(api_version).to_string());
    if let Some(time) = time {
        out.push_str(",\"time\":");
        out.push_str(&Value::from(time).to_string());
    }
    out.push_str(",\"fieldsType\":\"FieldsV1\",\"fieldsV1\":");
}

/// The members of an entry that come after its fields.
pub(super) fn write_tail(subresource: &str, out: &mut String) {
    if !subresource.is_empty() {
        out.push_str(",\"subresource\":");
        out.push_str(&Value::from(subresource).to_string());
    }
    out.push('}');
}

// === impl ManagerId ===

impl ManagerId {
    /// As conflicts name it: `"kubectl" with subresource "status" using v1`.
    pub fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    /// The form by which Kubernetes sorts managers.
    pub(super) fn to_json(&self) -> String {
        let mut out = String::from("{");
        let operation = match self.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        let members = [
            ("manager", self.manager.as_str()),
            ("operation", operation),
            ("apiVersion", &self.api_version),
            ("subresource", &self.subresource),
        ];
        for (name, value) in members {
            if !value.is_empty() {
                let comma = if out.len() > 1 { "," } else { "" };
                out.push_str(&format!("{comma}\"{name}\":{}", Value::from(value)));
            }
        }
        out.push('}');
        out
    }
}

// === impl Write ===

impl Write<'_> {
    /// `metadata.managedFields` of an object that this create made, from what it owns (fieldsV1).
    pub fn only_entry(&self, fields: &[u8]) -> Vec<u8> {
        if fields == b"{}" {
            return Vec::new();
        }
        let mut head = String::from("[");
        write_head(self.manager, "Update", self.api_version, Some(self.now), &mut head);
        let mut tail = String::new();
        write_tail(self.subresource, &mut tail);
        tail.push(']');
        [head.as_bytes(), fields, tail.as_bytes()].concat()
    }

    /// What of a comparison this write can have brought about.
    #[must_use]
    pub fn seen(&self, comparison: Comparison) -> Comparison {
        self.filter.comparison(comparison).map(|set| set.difference(stripped()))
    }

    pub(super) fn id(&self, operation: Operation) -> ManagerId {
        ManagerId {
            manager: self.manager.to_owned(),
            operation,
            api_version: match operation {
                Operation::Apply => String::new(),
                Operation::Update => self.api_version.to_owned(),
            },
            subresource: self.subresource.to_owned(),
        }
    }

    pub(super) fn entry(&self, operation: Operation, fields: FieldSet) -> Entry {
        Entry {
            manager: self.manager.to_owned(),
            operation,
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
            time: Some(self.now.to_owned()),
            fields,
        }
    }
}

// === impl Filter ===

impl Default for Filter {
    fn default() -> Self {
        Self::Exclude(FieldSet::default())
    }
}

impl Filter {
    /// What of a set passes.
    #[must_use]
    pub fn pass(&self, set: FieldSet) -> FieldSet {
        match self {
            Self::Exclude(excluded) if excluded.is_empty() => set,
            Self::Exclude(excluded) => set.recursive_difference(excluded),
            Self::Include(patterns) => {
                let patterns: Vec<&[Option<PathElement>]> =
                    patterns.iter().map(Vec::as_slice).collect();
                included(set, &patterns)
            }
        }
    }

    pub(super) fn comparison(&self, comparison: Comparison) -> Comparison {
        match self {
            Self::Exclude(excluded) if excluded.is_empty() => comparison,
            filter => comparison.map(|set| filter.pass(set)),
        }
    }
}

fn included(set: FieldSet, patterns: &[&[Option<PathElement>]]) -> FieldSet {
    if patterns.iter().any(|pattern| pattern.is_empty()) {
        return set;
    }
    let rest_of = |element: &PathElement| -> Vec<&[Option<PathElement>]> {
        let fits = |first: &Option<PathElement>| first.as_ref().is_none_or(|e| e == element);
        let rests = patterns.iter().filter_map(|pattern| match pattern {
            [first, rest @ ..] if fits(first) => Some(rest),
            _ => None,
        });
        rests.collect()
    };
    let mut out = FieldSet::default();
    for member in set.members {
        if !rest_of(&member).is_empty() {
            out.add(member);
        }
    }
    for (element, below) in set.children {
        let rests = rest_of(&element);
        if !rests.is_empty() {
            out.add_below(&element, included(below, &rests));
        }
    }
    out
}

/// Fields that nobody owns: they say which object it is, or the server alone sets them.
pub(super) fn stripped() -> &'static FieldSet {
    static STRIPPED: std::sync::OnceLock<FieldSet> = std::sync::OnceLock::new();
    STRIPPED.get_or_init(|| {
        let mut set = FieldSet::of(&[&["apiVersion"], &["kind"], &["metadata"]]);
        for name in STRIPPED_METADATA {
            set.insert(&[PathElement::field("metadata"), PathElement::field(name)]);
        }
        set
    })
}

/// What of the metadata nobody owns, sorted.
pub(super) const STRIPPED_METADATA: [&str; 9] = [
    "clusterName",
    "creationTimestamp",
    "generation",
    "managedFields",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// An entry as JSON has it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wire<'a> {
    #[serde(borrow)]
    manager: Option<Cow<'a, str>>,
    #[serde(borrow)]
    operation: Option<Cow<'a, str>>,
    #[serde(borrow)]
    api_version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    fields_type: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "fieldsV1")]
    fields_v1: Option<&'a RawValue>,
    #[serde(borrow)]
    subresource: Option<Cow<'a, str>>,
}

impl Wire<'_> {
    fn entry(self, at: usize) -> Result<Entry, String> {
        let text = |text: Option<Cow<'_, str>>| text.unwrap_or_default().into_owned();
        let operation = match self.operation.as_deref() {
            Some("Apply") => Operation::Apply,
            Some("Update") => Operation::Update,
            _ => return Err("operation must be `Apply` or `Update`".to_owned()),
        };
        let api_version = text(self.api_version);
        if api_version.is_empty() {
            return Err("apiVersion must not be empty".to_owned());
        }
        match self.fields_type.as_deref().unwrap_or_default() {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {at}")),
            other => {
                return Err(format!("invalid fieldsType {other:?} in managed fields entry {at}"));
            }
        }
        let fields = match self.fields_v1 {
            Some(fields) => FieldSet::from_json(fields.get().as_bytes())
                .map_err(|error| format!("error decoding set: {error}"))?,
            None => FieldSet::default(),
        };
        Ok(Entry {
            manager: text(self.manager),
            operation,
            api_version,
            subresource: text(self.subresource),
            time: self.time.map(Cow::into_owned),
            fields,
        })
    }
}
