//! Links of a backend, rewritten so that they lead through the proxy. Pure.

use std::io;

use bytes::Bytes;

/// Attributes whose values are links, by element (HTML 4.01 and 5).
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements in which nothing is markup until they end.
const RAW: &[&str] = &["script", "style", "textarea", "title", "xmp", "noembed", "noframes"];

/// The longest tag that is looked into, in bytes. A longer one is left as it is.
const TAG_BYTES_MAX: usize = 64 * 1024;

/// How links are rewritten.
#[derive(Clone, Debug)]
pub(super) struct Links {
    /// What the client's paths have in front of the backend's.
    pub prefix: String,
    /// The backend's host.
    pub backend: String,
    /// The host under which the client reaches the proxy.
    pub client: String,
}

impl Links {
    /// A link of the backend as the client must see it. Links to others, and relative ones, stay.
    pub(super) fn rewritten(&self, link: &str) -> String {
        let (host, path, origin) = split(link);
        let is_elsewhere = !host.is_empty() && host != self.backend && host != self.client;
        if is_elsewhere || !path.starts_with('/') {
            return link.to_owned();
        }
        let origin = if !host.is_empty() && host == self.client { origin } else { "" };
        match path.starts_with(&self.prefix) {
            true => format!("{origin}{path}"),
            false => format!("{origin}{}{path}", self.prefix),
        }
    }
}

/// The host of a link, what follows it, and what it begins with up to there.
fn split(link: &str) -> (&str, &str, &str) {
    let after_scheme = match link.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => Some(rest),
        _ => link.strip_prefix("//"),
    };
    let Some(rest) = after_scheme else { return ("", link, "") };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    (host, path, &link[..link.len() - path.len()])
}

/// A page that is rewritten as it comes: only links change, everything else is as it was.
#[derive(Debug)]
pub(super) struct Html {
    links: Links,
    /// What was not looked at yet: the beginning of a tag.
    pending: Vec<u8>,
    out: Vec<u8>,
    /// The element that must end before there is markup again.
    raw: Option<&'static str>,
}

impl Html {
    /// A page with these links.
    pub(super) fn new(links: Links) -> Self {
        Self { links, pending: Vec::new(), out: Vec::new(), raw: None }
    }

    /// What is done.
    pub(super) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.out).into()
    }

    /// What is left at the end.
    pub(super) fn finish(mut self) -> Bytes {
        self.out.append(&mut self.pending);
        self.out.into()
    }

    /// Handles all whole tags.
    fn advance(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let mut rest = pending.as_slice();
        loop {
            let Some(start) = rest.iter().position(|byte| *byte == b'<') else {
                self.out.extend_from_slice(rest);
                return;
            };
            self.out.extend_from_slice(&rest[..start]);
            rest = &rest[start..];
            let length = match tag_length(rest) {
                Some(length) => length,
                None if rest.len() > TAG_BYTES_MAX => 1,
                None => {
                    self.pending = rest.to_vec();
                    return;
                }
            };
            let (tag, after) = rest.split_at(length);
            self.tag(tag);
            rest = after;
        }
    }

    fn tag(&mut self, tag: &[u8]) {
        let Ok(text) = std::str::from_utf8(tag) else { return self.out.extend_from_slice(tag) };
        if let Some(raw) = self.raw {
            let ends = text.strip_prefix("</").is_some_and(|rest| name(rest) == raw);
            if ends {
                self.raw = None;
            }
            return self.out.extend_from_slice(tag);
        }
        let element = name(&text[1..]);
        self.raw = RAW.iter().copied().find(|raw| *raw == element);
        match LINKS.iter().find(|(known, _)| *known == element) {
            Some((_, attributes)) => {
                let rewritten = rewrite_tag(text, attributes, &self.links);
                self.out.extend_from_slice(rewritten.as_bytes());
            }
            None => self.out.extend_from_slice(tag),
        }
    }
}

impl io::Write for Html {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        self.advance();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How long the tag or comment is that begins here; `None` while its end is not there.
fn tag_length(text: &[u8]) -> Option<usize> {
    if b"<!--".starts_with(&text[..text.len().min(4)]) {
        let end = text.windows(3).skip(4).position(|window| window == b"-->");
        return end.map(|end| end + 7);
    }
    let begins_tag = text.get(1)?.is_ascii_alphabetic() || b"/!?".contains(text.get(1)?);
    if !begins_tag {
        return Some(1);
    }
    let mut quote = None;
    for (at, byte) in text.iter().enumerate() {
        match quote {
            Some(open) if open == *byte => quote = None,
            Some(_) => {}
            None if *byte == b'>' => return Some(at + 1),
            None if matches!(byte, b'"' | b'\'') && text[..at].contains(&b'=') => {
                quote = Some(*byte);
            }
            None => {}
        }
    }
    None
}

/// The name of an element, in lower case.
fn name(text: &str) -> String {
    let end = text.find(|c: char| c.is_ascii_whitespace() || c == '>' || c == '/');
    text[..end.unwrap_or(text.len())].to_ascii_lowercase()
}

/// A tag with the links in these attributes rewritten.
fn rewrite_tag(tag: &str, attributes: &[&str], links: &Links) -> String {
    let mut out = String::with_capacity(tag.len() + links.prefix.len());
    let mut rest = tag;
    while let Some(equals) = rest.find('=') {
        let (before, after) = rest.split_at(equals);
        let attribute = before.trim_end();
        let start = attribute.rfind(|c: char| c.is_ascii_whitespace() || c == '"' || c == '\'');
        let attribute = attribute[start.map_or(0, |start| start + 1)..].to_ascii_lowercase();
        out.push_str(before);
        out.push('=');
        let after = &after[1..];
        let value_at = after.find(|c: char| !c.is_ascii_whitespace()).unwrap_or(after.len());
        out.push_str(&after[..value_at]);
        let value = &after[value_at..];
        let (quote, inner) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => (Some(quote), &value[1..]),
            _ => (None, value),
        };
        let end = match quote {
            Some(quote) => inner.find(quote),
            None => inner.find(|c: char| c.is_ascii_whitespace() || c == '>'),
        };
        let (link, after) = inner.split_at(end.unwrap_or(inner.len()));
        out.extend(quote);
        match attributes.contains(&attribute.as_str()) {
            true => out.push_str(&links.rewritten(link)),
            false => out.push_str(link),
        }
        rest = after;
        if let (Some(quote), Some(after)) = (quote, after.get(1..)) {
            out.push(quote);
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn links() -> Links {
        Links {
            prefix: "/proxy/here".to_owned(),
            backend: "10.0.0.9:80".to_owned(),
            client: "api.example.com".to_owned(),
        }
    }

    fn rewritten(page: &str) -> String {
        let mut html = Html::new(links());
        html.write_all(page.as_bytes()).unwrap();
        let mut out = html.take().to_vec();
        out.extend_from_slice(&html.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn links_to_the_backend_lead_through_the_proxy() {
        #[track_caller]
        fn check(link: &str, expected: &str) {
            assert_eq!(links().rewritten(link), expected);
        }
        check("/a/b?c#d", "/proxy/here/a/b?c#d");
        check("http://10.0.0.9:80/a/", "/proxy/here/a/");
        check("//10.0.0.9:80/a", "/proxy/here/a");
        check("https://api.example.com/a", "https://api.example.com/proxy/here/a");
        check("/proxy/here/a", "/proxy/here/a");
        check("http://example.com/a", "http://example.com/a");
        for relative in ["a/b", "../x", "#top", "mailto:a@b", "", "http://10.0.0.9:80"] {
            check(relative, relative);
        }
    }

    #[test]
    fn only_links_of_a_page_change() {
        #[track_caller]
        fn check(page: &str, expected: &str) {
            assert_eq!(rewritten(page), expected);
        }
        check("<a href=\"/x\">y</a>", "<a href=\"/proxy/here/x\">y</a>");
        check("<A class=z HREF = '/x'>", "<A class=z HREF = '/proxy/here/x'>");
        check("<img src=/x alt=\"a > b\"><b>", "<img src=/proxy/here/x alt=\"a > b\"><b>");
        check("<p href=\"/x\">", "<p href=\"/x\">");
        check("<!-- <a href=\"/x\"> --><br/>", "<!-- <a href=\"/x\"> --><br/>");
        check(
            "<script src=/s>'<a href=\"/x\">'</script>",
            "<script src=/proxy/here/s>'<a href=\"/x\">'</script>",
        );
        check("1 < 2 & <a href='/ü'>", "1 < 2 & <a href='/proxy/here/ü'>");
        check("<a href=\"/x", "<a href=\"/x");
    }

    proptest! {
        #[test]
        fn a_page_may_come_in_any_parts(
            parts in proptest::collection::vec("(<a href=\"/x\">|<!--|-->|[<>=/\"' a-z]|é){0,6}", 0..8)
        ) {
            let mut html = Html::new(links());
            let mut out = Vec::new();
            for part in &parts {
                html.write_all(part.as_bytes()).unwrap();
                out.extend_from_slice(&html.take());
            }
            out.extend_from_slice(&html.finish());
            prop_assert_eq!(String::from_utf8(out).unwrap(), rewritten(&parts.concat()));
        }
    }
}
