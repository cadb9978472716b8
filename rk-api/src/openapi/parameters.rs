//! Parameters of requests.

/// A parameter in the path or the query.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// `string`, `integer` or `boolean`.
    pub(super) kind: &'static str,
    pub(super) description: &'static str,
}

const fn string(name: &'static str, description: &'static str) -> Parameter {
    Parameter { name, kind: "string", description }
}

const fn integer(name: &'static str, description: &'static str) -> Parameter {
    Parameter { name, kind: "integer", description }
}

const fn boolean(name: &'static str, description: &'static str) -> Parameter {
    Parameter { name, kind: "boolean", description }
}

pub(super) const NAME: Parameter = string("name", "The name of the object.");
pub(super) const NAMESPACE: Parameter = string("namespace", "The namespace of the objects.");

const PRETTY: Parameter = string("pretty", "If 'true', the answer is indented.");
const DRY_RUN: Parameter =
    string("dryRun", "If 'All', the request goes through all checks and nothing is stored.");
const FIELD_MANAGER: Parameter = string(
    "fieldManager",
    "The name under which the changed fields are owned, up to 128 characters.",
);
const FIELD_VALIDATION: Parameter = string(
    "fieldValidation",
    "What becomes of unknown and duplicate fields: 'Ignore' drops them, 'Warn' (the default) drops \
     them with a warning, 'Strict' refuses the request.",
);
const FORCE: Parameter =
    boolean("force", "For apply patches: take over fields that others own instead of failing.");
const GRACE_PERIOD: Parameter = integer(
    "gracePeriodSeconds",
    "Seconds before the object is removed; 0 removes it at once. The kind's default if left out.",
);
const ORPHAN: Parameter = boolean("orphanDependents", "Deprecated, see propagationPolicy.");
const PROPAGATION: Parameter = string(
    "propagationPolicy",
    "What becomes of dependent objects: 'Orphan' leaves them, 'Background' deletes them afterwards, \
     'Foreground' deletes them first.",
);
const BOOKMARKS: Parameter = boolean(
    "allowWatchBookmarks",
    "Lets a watch send bookmarks, which carry only a resourceVersion.",
);
const CONTINUE: Parameter =
    string("continue", "Where to go on: the token that came with an earlier, limited list.");
const FIELD_SELECTOR: Parameter = string("fieldSelector", "Selects objects by their fields.");
const LABEL_SELECTOR: Parameter = string("labelSelector", "Selects objects by their labels.");
const LIMIT: Parameter =
    integer("limit", "The most objects to answer with; the rest is left for 'continue'.");
const VERSION: Parameter =
    string("resourceVersion", "How new the answer must be, or where a watch begins.");
const VERSION_MATCH: Parameter = string(
    "resourceVersionMatch",
    "How resourceVersion is meant for a list: 'NotOlderThan' or 'Exact'.",
);
const INITIAL_EVENTS: Parameter = boolean(
    "sendInitialEvents",
    "Whether a watch first sends what there is, and then a bookmark that marks the end of it.",
);
const TIMEOUT: Parameter = integer("timeoutSeconds", "Seconds after which a list or watch ends.");
const WATCH: Parameter =
    boolean("watch", "Whether to send changes as they happen instead of a list.");

static LIST: &[&Parameter] = &[
    &BOOKMARKS,
    &CONTINUE,
    &FIELD_SELECTOR,
    &LABEL_SELECTOR,
    &LIMIT,
    &PRETTY,
    &VERSION,
    &VERSION_MATCH,
    &INITIAL_EVENTS,
    &TIMEOUT,
    &WATCH,
];
static GET: &[&Parameter] = &[&PRETTY];
static WRITE: &[&Parameter] = &[&DRY_RUN, &FIELD_MANAGER, &FIELD_VALIDATION, &PRETTY];
static PATCH: &[&Parameter] = &[&DRY_RUN, &FIELD_MANAGER, &FIELD_VALIDATION, &FORCE, &PRETTY];
static DELETE: &[&Parameter] = &[&DRY_RUN, &GRACE_PERIOD, &ORPHAN, &PRETTY, &PROPAGATION];
static DELETE_COLLECTION: &[&Parameter] = &[
    &CONTINUE,
    &DRY_RUN,
    &FIELD_SELECTOR,
    &GRACE_PERIOD,
    &LABEL_SELECTOR,
    &LIMIT,
    &ORPHAN,
    &PRETTY,
    &PROPAGATION,
    &VERSION,
    &VERSION_MATCH,
    &INITIAL_EVENTS,
    &TIMEOUT,
];

/// Query parameters of a verb.
pub(super) fn of_verb(verb: &str) -> Vec<&'static Parameter> {
    let parameters = match verb {
        "list" => LIST,
        "get" => GET,
        "patch" => PATCH,
        "delete" => DELETE,
        "deletecollection" => DELETE_COLLECTION,
        _ => WRITE,
    };
    parameters.to_vec()
}

const CONTAINER: Parameter = string("container", "The container; the only one if left out.");
const COMMAND: Parameter =
    string("command", "The command, once for each word. No shell takes it apart.");
const STDIN: Parameter = boolean("stdin", "Whether to connect standard input.");
const STDOUT: Parameter = boolean("stdout", "Whether to connect standard output.");
const STDERR: Parameter = boolean("stderr", "Whether to connect standard error.");
const TTY: Parameter = boolean("tty", "Whether to give it a terminal.");
const PORTS: Parameter = integer("ports", "A port of the Pod, once for each port.");
const PATH: Parameter = string("path", "The path of the proxied request.");
const FOLLOW: Parameter = boolean("follow", "Whether to go on with what is logged from now on.");
const INSECURE: Parameter =
    boolean("insecureSkipTLSVerifyBackend", "Whether to trust any certificate of the node.");
const LIMIT_BYTES: Parameter = integer("limitBytes", "The most bytes to answer with.");
const PREVIOUS: Parameter =
    boolean("previous", "Whether to read the log of the run before this one.");
const SINCE: Parameter = integer("sinceSeconds", "Only what is at most this many seconds old.");
const SINCE_TIME: Parameter = string("sinceTime", "Only what was logged after this RFC 3339 time.");
const STREAM: Parameter = string("stream", "'All' (the default), 'Stdout' or 'Stderr'.");
const TAIL: Parameter = integer("tailLines", "Only this many lines from the end.");
const TIMESTAMPS: Parameter = boolean("timestamps", "Whether each line begins with its time.");

static ATTACH: &[&Parameter] = &[&CONTAINER, &STDERR, &STDIN, &STDOUT, &TTY];
static EXEC: &[&Parameter] = &[&COMMAND, &CONTAINER, &STDERR, &STDIN, &STDOUT, &TTY];
static LOG: &[&Parameter] = &[
    &CONTAINER,
    &FOLLOW,
    &INSECURE,
    &LIMIT_BYTES,
    &PRETTY,
    &PREVIOUS,
    &SINCE,
    &SINCE_TIME,
    &STREAM,
    &TAIL,
    &TIMESTAMPS,
];

/// Query parameters of a subresource that has its own.
pub(super) fn of_subresource(name: &str) -> Option<Vec<&'static Parameter>> {
    let parameters: &[_] = match name {
        "attach" => ATTACH,
        "exec" => EXEC,
        "log" => LOG,
        "portforward" => &[&PORTS],
        "proxy" => &[&PATH],
        _ => return None,
    };
    Some(parameters.to_vec())
}
