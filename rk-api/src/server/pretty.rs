//! JSON for people: indented for those who ask (`pretty=true`) and for the tools that people hold in
//! their hands, as kube-apiserver does it.

use http::{HeaderMap, Response, header};

use super::{
    body::{self, ResponseBody},
    query::Query,
};

/// What the user agents begin with to which answers are indented unless they ask otherwise.
const HAND_TOOLS: &[&str] = &["curl", "Wget", "Mozilla/5.0"];

/// What Go takes for true.
const TRUE: &[&str] = &["1", "t", "T", "true", "TRUE", "True"];

/// Whether an answer should be indented.
pub(super) fn is_wanted(query: &Query, headers: &HeaderMap) -> bool {
    match query.get("pretty").filter(|value| !value.is_empty()) {
        Some(value) => TRUE.contains(&value),
        None => {
            let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
            agent.is_some_and(|agent| HAND_TOOLS.iter().any(|tool| agent.starts_with(tool)))
        }
    }
}

/// The answer with its JSON indented, compressed if `accepting` takes that. Anything but a whole
/// JSON document is left as it is.
pub(super) fn answer(
    mut response: Response<ResponseBody>,
    accepting: &HeaderMap,
) -> Response<ResponseBody> {
    let headers = response.headers();
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes() == b"application/json");
    if !is_json || headers.contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    if let Some(json) = response.body_mut().take_full() {
        body::set(&mut response, accepting, indented(&json).into());
    }
    response
}

/// The JSON text with a line for each member and element, each level two spaces further in. The text
/// is taken to be JSON; nothing but space changes.
fn indented(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let (mut in_text, mut escaped, mut opened) = (false, false, false);
    for &byte in json {
        if in_text {
            out.push(byte);
            in_text = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        if byte.is_ascii_whitespace() {
            continue;
        }
        let closes = matches!(byte, b'}' | b']');
        if closes {
            depth = depth.saturating_sub(1);
        }
        // What is empty stays on its line.
        if opened != closes {
            new_line(&mut out, depth);
        }
        opened = matches!(byte, b'{' | b'[');
        out.push(byte);
        match byte {
            b'{' | b'[' => depth += 1,
            b',' => new_line(&mut out, depth),
            b':' => out.push(b' '),
            b'"' => in_text = true,
            _ => {}
        }
    }
    out
}

fn new_line(out: &mut Vec<u8>, depth: usize) {
    out.push(b'\n');
    out.extend(std::iter::repeat_n(b' ', 2 * depth));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn what_is_empty_stays_on_its_line() {
        let json = json!({ "a": {}, "b": [], "c": [1, { "d": "[,:{\\\"" }] }).to_string();
        let text = String::from_utf8(indented(json.as_bytes())).unwrap();
        assert_eq!(
            text,
            "{\n  \"a\": {},\n  \"b\": [],\n  \"c\": [\n    1,\n    {\n      \"d\": \
             \"[,:{\\\\\\\"\"\n    }\n  ]\n}"
        );
    }

    #[test]
    fn people_are_told_from_programs() {
        let wanted = |query: &str, agent: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::USER_AGENT, agent.parse().unwrap());
            is_wanted(&Query::parse(Some(query)), &headers)
        };
        assert!(wanted("pretty=true", "kubectl/v1.37.0"));
        assert!(wanted("", "curl/8.5.0"));
        assert!(wanted("pretty=", "Mozilla/5.0 (X11)"));
        assert!(!wanted("pretty=false", "curl/8.5.0"));
        assert!(!wanted("pretty=yes", "curl/8.5.0"));
        assert!(!wanted("", "kubectl/v1.37.0"));
    }

    proptest! {
        #[test]
        fn it_is_indented_like_everywhere(value in value()) {
            let compact = serde_json::to_vec(&value).unwrap();
            let pretty = serde_json::to_vec_pretty(&value).unwrap();
            prop_assert_eq!(indented(&compact), pretty.clone());
            prop_assert_eq!(indented(&pretty), pretty);
        }

        #[test]
        fn no_bytes_break_it(bytes in any::<Vec<u8>>()) {
            indented(&bytes);
        }
    }
}
