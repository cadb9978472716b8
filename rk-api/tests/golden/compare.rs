//! How an answer is compared with the recorded one: every recorded field must be there with the same
//! value; more fields are allowed, except in maps whose keys are free.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{
    case::{Answer, Names, list},
    normal,
};

type Outcome = Result<(), String>;

/// Maps in which a key too many is a difference.
const CLOSED: [&str; 10] = [
    "data",
    "binaryData",
    "labels",
    "annotations",
    "matchLabels",
    "nodeSelector",
    "hard",
    "limits",
    "requests",
    "parameters",
];

/// Lists of these may have more items than were recorded.
const DISCOVERY: [&str; 4] = ["APIVersions", "APIGroupList", "APIGroup", "APIResourceList"];

/// Reasons that newer versions give where the recorded one said `FieldValueInvalid`.
const NARROWER: [&str; 3] = ["FieldValueTypeInvalid", "FieldValueTooLong", "FieldValueTooMany"];

/// Columns whose cells hang on the clock.
const AGES: [&str; 4] = ["Age", "Last Seen", "First Seen", "Created At"];

/// The value at a dotted path.
pub(crate) fn dig<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, part| match value {
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        value => value.get(part),
    })
}

/// Whether the answer is the recorded one; the error says how it is not.
pub(crate) fn compare(case: &Value, answer: &Answer, names: &Names) -> Outcome {
    let (expect, text) = (&case["expect"], &answer.text);
    let shown: String = text.chars().take(300).collect();
    if u64::from(answer.status) != expect["status"].as_u64().unwrap_or_default() {
        return Err(format!("status: want {}, got {}: {shown}", expect["status"], answer.status));
    }
    for (name, want) in expect["headers"].as_object().into_iter().flatten() {
        let got = answer.headers.get(name).map_or("", |value| value.to_str().unwrap_or_default());
        let got =
            if name == "Content-Type" { got.split(';').next().unwrap_or_default() } else { got };
        if want != got {
            return Err(format!("header {name}: want {want}, got {got:?}"));
        }
    }
    for part in list(&expect["contains"]) {
        if !text.contains(part.as_str().unwrap_or_default()) {
            return Err(format!("the answer lacks {part}: {shown}"));
        }
    }
    let body = normal_body(case, answer, names);
    for path in list(&expect["absent"]) {
        if dig(&body, path.as_str().unwrap_or_default()).is_some() {
            return Err(format!("{path} should be absent"));
        }
    }
    let want = &expect["body"];
    match want["kind"].as_str() {
        _ if want.is_null() => Ok(()),
        Some(kind) if !body.is_object() => Err(format!("body: want {kind}, got {shown}")),
        Some("Status") if want["status"] == "Failure" => failures(want, &body),
        Some("Table") => tables(want, &body),
        kind => {
            let is_subset =
                kind.is_some_and(|kind| DISCOVERY.contains(&kind)) || case.get("pick").is_some();
            values(want, &body, "", is_subset)
        }
    }
}

fn normal_body(case: &Value, answer: &Answer, names: &Names) -> Value {
    let is_unordered = case["unordered"] == true;
    if case["request"]["watch"] == true && answer.status == 200 {
        return normal::events(&answer.text, names, is_unordered);
    }
    let Ok(mut body) = serde_json::from_str::<Value>(&answer.text) else {
        return json!(normal::text(&answer.text, names, true));
    };
    if let Some(items) = body["items"].as_array_mut().filter(|_| is_unordered) {
        items.sort_by_key(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned());
    }
    if let [Value::String(field), name] = list(&case["pick"]) {
        let picked: Value =
            list(&body[field]).iter().filter(|item| item["name"] == *name).cloned().collect();
        body = json!({ field: picked });
    }
    let kept: Vec<_> = list(&case["check"]).iter().filter_map(Value::as_str).collect();
    normal::value(&body, names, "", &kept)
}

fn differ(path: &str, want: &Value, got: &Value) -> Outcome {
    let short = |value: &Value| value.to_string().chars().take(200).collect::<String>();
    Err(format!("{path}: want {}, got {}", short(want), short(got)))
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty)
}

fn same_number(want: &Value, got: &Value) -> bool {
    want.is_number() && got.is_number() && want.as_f64() == got.as_f64()
}

fn values(want: &Value, got: &Value, path: &str, is_subset: bool) -> Outcome {
    match (want, got) {
        _ if is_nothing(want) && is_nothing(got) => Ok(()),
        (Value::Object(want), Value::Object(got)) => {
            let last = path.rsplit('.').next().unwrap_or_default();
            if CLOSED.contains(&last) || path.ends_with("/Apply") {
                let extra =
                    |key: &&String| !want.contains_key(*key) && !key.contains("kubernetes.io/");
                let extra: Vec<_> = got.keys().filter(extra).collect();
                if !extra.is_empty() {
                    return Err(format!("{path}: unexpected {extra:?}"));
                }
            }
            want.iter().try_for_each(|(key, want)| {
                values(
                    want,
                    got.get(key).unwrap_or(&Value::Null),
                    &format!("{path}.{key}"),
                    is_subset,
                )
            })
        }
        (Value::Array(want), Value::Array(got)) if is_subset || path == ".items" => {
            by_name(want, got, path, is_subset)
        }
        (Value::Array(want_items), Value::Array(got_items)) => {
            if want_items.len() != got_items.len() {
                return differ(&format!("{path}: length"), want, got);
            }
            want_items.iter().zip(got_items).enumerate().try_for_each(|(index, (want, got))| {
                values(want, got, &format!("{path}[{index}]"), is_subset)
            })
        }
        (want, got) if want == got || same_number(want, got) => Ok(()),
        (want, got) => differ(path, want, got),
    }
}

fn by_name(want: &[Value], got: &[Value], path: &str, is_subset: bool) -> Outcome {
    let name = |item: &Value| {
        let names = [&item["metadata"]["name"], &item["name"], &item["groupVersion"]];
        let found = names.into_iter().find(|name| name.as_str().is_some_and(|n| !n.is_empty()));
        if item.is_object() { found.unwrap_or(&Value::Null) } else { item }.to_string()
    };
    let names = |items: &[Value]| items.iter().map(name).collect::<Vec<_>>();
    if !is_subset && names(want) != names(got) {
        return Err(format!("{path}: names: want {:?}, got {:?}", names(want), names(got)));
    }
    let there: BTreeMap<_, _> = got.iter().map(|item| (name(item), item)).collect();
    want.iter().try_for_each(|want| {
        let name = name(want);
        let got = there.get(&name).copied().unwrap_or(&Value::Null);
        values(want, got, &format!("{path}[{name}]"), is_subset)
    })
}

/// Error answers: the same reason, object and causes, and the same words.
fn failures(want: &Value, got: &Value) -> Outcome {
    for field in ["kind", "status", "reason", "code"] {
        values(&want[field], &got[field], &format!(".{field}"), false)?;
    }
    for field in ["kind", "group", "name"] {
        let path = format!(".details.{field}");
        if !want["details"][field].is_null() {
            values(&want["details"][field], &got["details"][field], &path, false)?;
        }
    }
    let causes = |status: &Value| {
        let cause = |cause: &Value| {
            let word = |field: &str| cause[field].as_str().unwrap_or_default().to_owned();
            let reason = Some(word("reason")).filter(|it| !NARROWER.contains(&it.as_str()));
            (word("field"), reason.unwrap_or_else(|| "FieldValueInvalid".to_owned()))
        };
        let mut causes: Vec<_> = list(&status["details"]["causes"]).iter().map(cause).collect();
        causes.sort();
        causes
    };
    if causes(want) != causes(got) {
        return Err(format!("causes: want {:?}, got {:?}", causes(want), causes(got)));
    }
    match &want["message"] {
        Value::Null => Ok(()),
        message => values(message, &got["message"], "message only", false),
    }
}

fn tables(want: &Value, got: &Value) -> Outcome {
    let columns: BTreeMap<_, _> = list(&got["columnDefinitions"])
        .iter()
        .enumerate()
        .map(|(index, column)| (column["name"].as_str().unwrap_or_default(), (index, column)))
        .collect();
    let wanted = list(&want["columnDefinitions"]);
    for column in wanted {
        let name = column["name"].as_str().unwrap_or_default();
        let (_, there) = columns.get(name).ok_or_else(|| format!("no column {name}"))?;
        for field in ["type", "format", "priority"] {
            values(&column[field], &there[field], &format!("column {name}.{field}"), false)?;
        }
    }
    let (rows, got_rows) = (list(&want["rows"]), list(&got["rows"]));
    if rows.len() != got_rows.len() {
        return Err(format!("rows: want {}, got {}", rows.len(), got_rows.len()));
    }
    for (number, (row, got)) in rows.iter().zip(got_rows).enumerate() {
        for (column, cell) in wanted.iter().zip(list(&row["cells"])) {
            let name = column["name"].as_str().unwrap_or_default();
            let there = columns.get(name).map_or(&Value::Null, |(index, _)| &got["cells"][*index]);
            let is_masked = cell == "<ip>" && there.as_str().is_some_and(normal::is_address);
            if !AGES.contains(&name) && !is_masked {
                values(cell, there, &format!("row {number}, {name}"), false)?;
            }
        }
        values(&row["object"], &got["object"], &format!("row {number}.object"), false)?;
    }
    Ok(())
}
