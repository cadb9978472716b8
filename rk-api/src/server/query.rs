//! Query parameters, read as kube-apiserver reads them.

use crate::field::{ErrorList, FieldError, Path};

use super::{
    info::percent_decode,
    status::{ApiError, Result, Subject},
};

/// The parameters of a query, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Splits a query; malformed escapes drop their parameter, as Go's parser does.
    pub(super) fn parse(query: Option<&str>) -> Self {
        let decode = |text: &str| percent_decode(&text.replace('+', " "));
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .filter_map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    Some((decode(key)?, decode(value)?))
                })
                .collect(),
        )
    }

    /// The first value of a parameter.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub(super) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(found, _)| found == key).map(|(_, value)| value.as_str())
    }

    /// A flag: present, and neither `0` nor `false`.
    pub(super) fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// A number; malformed ones are a 400 in Go's words.
    pub(super) fn integer(&self, key: &str) -> Result<Option<i64>> {
        match self.get(key) {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
            }),
        }
    }
}

/// What is listed or watched, and as of when (`ListOptions`).
#[derive(Clone, Debug, Default)]
pub(super) struct ListOptions {
    /// The label selector, unparsed.
    pub label_selector: String,
    /// The field selector, unparsed.
    pub field_selector: String,
    /// Whether to watch.
    pub watch: bool,
    /// Whether a watch may send bookmarks.
    pub allow_watch_bookmarks: bool,
    /// The version asked for; empty for the latest.
    pub resource_version: String,
    /// How `resource_version` is meant.
    pub resource_version_match: String,
    /// After how many seconds a watch ends.
    pub timeout_seconds: Option<i64>,
    /// The most items to return; 0 for all.
    pub limit: usize,
    /// Where the page before ended.
    pub continue_token: String,
    /// Whether a watch begins with the objects there are; `None` decides by the version.
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    /// Reads and validates the options of a list or watch.
    pub(super) fn read(query: &Query, watch: bool) -> Result<Self> {
        let text = |key: &str| query.get(key).unwrap_or_default().to_owned();
        let mut options = Self {
            label_selector: text("labelSelector"),
            field_selector: text("fieldSelector"),
            watch,
            allow_watch_bookmarks: query.flag("allowWatchBookmarks"),
            resource_version: text("resourceVersion"),
            resource_version_match: text("resourceVersionMatch"),
            timeout_seconds: query.integer("timeoutSeconds")?,
            limit: query.integer("limit")?.unwrap_or(0).max(0) as usize,
            continue_token: text("continue"),
            send_initial_events: query
                .get("sendInitialEvents")
                .map(|_| query.flag("sendInitialEvents")),
        };
        options.default_initial_events();
        let errors = options.validate();
        if errors.is_empty() {
            Ok(options)
        } else {
            let subject = Subject::of("meta.k8s.io", "ListOptions");
            Err(ApiError::invalid(&subject, "", &errors))
        }
    }

    /// A watch from the latest or any version begins with the objects there are (KEP-3157:
    /// `SetListOptionsDefaults`).
    fn default_initial_events(&mut self) {
        let says_nothing =
            self.send_initial_events.is_none() && self.resource_version_match.is_empty();
        if self.watch && says_nothing && matches!(self.resource_version.as_str(), "" | "0") {
            self.send_initial_events = Some(true);
            self.resource_version_match = "NotOlderThan".to_owned();
        }
    }

    /// The rules of apimachinery's `ValidateListOptions`.
    fn validate(&self) -> ErrorList {
        if self.watch { self.validate_watch() } else { self.validate_list() }
    }

    fn validate_list(&self) -> ErrorList {
        let matching = Path::new("resourceVersionMatch");
        let forbid = |path: &Path, why: &str| FieldError::forbidden(path, why);
        let mut errors = ErrorList::new();
        if !self.resource_version_match.is_empty() {
            if self.resource_version.is_empty() {
                errors.push(forbid(
                    &matching,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            errors.extend(self.match_with_continue());
            if !["Exact", "NotOlderThan"].contains(&self.resource_version_match.as_str()) {
                errors.push(FieldError::not_supported(
                    &matching,
                    self.resource_version_match.clone(),
                    &["Exact", "NotOlderThan", ""],
                ));
            }
            if self.resource_version_match == "Exact" && self.resource_version == "0" {
                errors.push(forbid(
                    &matching,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
        }
        if self.send_initial_events.is_some() {
            let initial = Path::new("sendInitialEvents");
            errors.push(forbid(&initial, "sendInitialEvents is forbidden for list"));
        }
        errors
    }

    fn validate_watch(&self) -> ErrorList {
        let matching = Path::new("resourceVersionMatch");
        let forbid = |why: &str| FieldError::forbidden(&matching, why);
        let is_not_older = self.resource_version_match == "NotOlderThan";
        let mut errors = ErrorList::new();
        if self.send_initial_events.is_some() && !is_not_older {
            errors.push(forbid(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        if !self.resource_version_match.is_empty() {
            if self.send_initial_events.is_none() {
                errors.push(forbid(
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is \
                     provided",
                ));
            }
            if !is_not_older {
                let found = self.resource_version_match.clone();
                errors.push(FieldError::not_supported(&matching, found, &["NotOlderThan"]));
            }
            errors.extend(self.match_with_continue());
        }
        errors
    }

    fn match_with_continue(&self) -> Option<FieldError> {
        let why = "resourceVersionMatch is forbidden when continue is provided";
        let matching = Path::new("resourceVersionMatch");
        (!self.continue_token.is_empty()).then(|| FieldError::forbidden(&matching, why))
    }

    /// How many items a page may have; 0 for all. A list of any version comes whole.
    pub(super) fn page_limit(&self) -> usize {
        if self.resource_version == "0" { 0 } else { self.limit }
    }

    /// Whether the list must be as of exactly this version.
    pub(super) fn is_exact(&self, version: u64) -> bool {
        self.resource_version_match == "Exact"
            // Before resourceVersionMatch there was, a limit made a version exact.
            || (self.resource_version_match.is_empty() && self.limit > 0 && version > 0)
    }

    /// The version as a number; empty and `0` are 0.
    pub(super) fn version(&self) -> Result<u64> {
        parse_version(&self.resource_version)
    }
}

/// A resource version as a number; empty is 0.
pub(super) fn parse_version(text: &str) -> Result<u64> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| {
        let path = Path::new("resourceVersion");
        let error = FieldError::invalid(
            &path,
            text,
            format!("strconv.ParseUint: parsing {text:?}: invalid syntax"),
        );
        // A plain failure, as kube-apiserver has it for reads of one object and for watches.
        ApiError::plain(error.to_string())
    })
}

/// How strictly unknown fields are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped, and the client is told.
    #[default]
    Warn,
    /// The request fails.
    Strict,
}

/// Options of create, update and patch.
#[derive(Clone, Debug, Default)]
pub(super) struct WriteOptions {
    /// Do everything but store the result.
    pub dry_run: bool,
    /// How unknown fields are taken.
    pub field_validation: FieldValidation,
}

/// The longest name of a field manager.
const FIELD_MANAGER_BYTES_MAX: usize = 128;

impl WriteOptions {
    /// Reads and validates them; `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`.
    pub(super) fn read(query: &Query, kind: &'static str) -> Result<Self> {
        let mut errors = ErrorList::new();
        let field_manager = query.get("fieldManager").unwrap_or_default().to_owned();
        if field_manager.len() > FIELD_MANAGER_BYTES_MAX {
            errors.push(FieldError::too_long(&Path::new("fieldManager"), FIELD_MANAGER_BYTES_MAX));
        }
        if let Some(bad) = field_manager.chars().find(|c| c.is_control()) {
            errors.push(FieldError::invalid(
                &Path::new("fieldManager"),
                field_manager.clone(),
                format!("should only contain printable characters, found {bad:?}"),
            ));
        }
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let field_validation = match query.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.push(FieldError::not_supported(
                    &Path::new("fieldValidation"),
                    other,
                    &["", "Ignore", "Strict", "Warn"],
                ));
                FieldValidation::Warn
            }
        };
        if errors.is_empty() {
            Ok(Self { dry_run, field_validation })
        } else {
            Err(ApiError::invalid(&Subject::of("meta.k8s.io", kind), "", &errors))
        }
    }
}

/// Whether `dryRun` asks for a dry run; values other than `All` are errors.
pub(super) fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut ErrorList) -> bool {
    let mut dry = false;
    for value in values {
        match value {
            "All" => dry = true,
            "" => {}
            other => {
                errors.push(FieldError::not_supported(&Path::new("dryRun"), other, &["All"]));
            }
        }
    }
    dry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_flags_understood() {
        let query = Query::parse(Some("watch=1&labelSelector=a%3Db%2Cc&q=x+y&off=false&bare"));
        assert!(query.flag("watch") && query.flag("bare"));
        assert!(!query.flag("off") && !query.flag("missing"));
        assert_eq!(query.get("labelSelector"), Some("a=b,c"));
        assert_eq!(query.get("q"), Some("x y"));
    }

    #[test]
    fn a_version_match_needs_a_version() {
        let query = Query::parse(Some("resourceVersionMatch=Exact&continue=x"));
        let error = ListOptions::read(&query, false).unwrap_err();
        assert_eq!((error.code, error.details.unwrap().causes.unwrap().len()), (422, 2));
    }

    #[track_caller]
    fn check(query: &str, watch: bool, expected: &[&str]) {
        let found = match ListOptions::read(&Query::parse(Some(query)), watch) {
            Ok(_) => Vec::new(),
            Err(error) => error.details.unwrap().causes.unwrap(),
        };
        let found: Vec<_> = found.into_iter().filter_map(|cause| cause.message).collect();
        assert_eq!(found, expected, "{query}");
    }

    #[test]
    fn what_a_list_may_ask_for() {
        check("resourceVersion=5&resourceVersionMatch=Exact&limit=3", false, &[]);
        check("resourceVersion=0&resourceVersionMatch=NotOlderThan", false, &[]);
        let unsupported = "Unsupported value: \"Any\": supported values: \"Exact\", \
                           \"NotOlderThan\", \"\"";
        check("resourceVersion=5&resourceVersionMatch=Any", false, &[unsupported]);
        check(
            "sendInitialEvents=true",
            false,
            &["Forbidden: sendInitialEvents is forbidden for list"],
        );
    }

    #[test]
    fn what_a_watch_may_ask_for() {
        let initial = "sendInitialEvents=true";
        check("resourceVersion=5", true, &[]);
        check("allowWatchBookmarks=true", true, &[]);
        check(&format!("{initial}&resourceVersionMatch=NotOlderThan"), true, &[]);
        check(
            initial,
            true,
            &["Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"],
        );
        check(
            &format!("{initial}&resourceVersionMatch=Exact"),
            true,
            &[
                "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                "Unsupported value: \"Exact\": supported values: \"NotOlderThan\"",
            ],
        );
        check(
            "resourceVersionMatch=NotOlderThan&resourceVersion=1&continue=x",
            true,
            &[
                "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is \
             provided",
                "Forbidden: resourceVersionMatch is forbidden when continue is provided",
            ],
        );
    }

    #[test]
    fn numbers_fail_in_gos_words() {
        let error = ListOptions::read(&Query::parse(Some("limit=x")), false).unwrap_err();
        assert_eq!(error.message, "strconv.ParseInt: parsing \"x\": invalid syntax");
    }
}
