//! Domain names as they are on the wire.

use std::fmt;

/// The longest name, its length octets and the root's among them (RFC 1035, section 2.3.4).
const NAME_MAX: usize = 255;
/// The longest label.
const LABEL_MAX: usize = 63;

/// A domain name, absolute and in lower case: names that differ in case only are the same (RFC 4343).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name(Box<[u8]>);

/// A text is not a domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a domain name: it has an empty label, one over 63 octets, or over 255 octets in all")]
pub struct InvalidName;

impl Name {
    /// The name that is written so; the dot at its end may be left out.
    ///
    /// # Errors
    /// [`InvalidName`].
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let root = Self(Box::new([0]));
        match text.strip_suffix('.').unwrap_or(text) {
            "" if text.is_empty() => Err(InvalidName),
            "" => Ok(root),
            text => root.child(text.split('.')).ok_or(InvalidName),
        }
    }

    /// The name of these labels before this one. `None` if that is not a name.
    pub fn child<'a>(&self, labels: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut wire = Vec::with_capacity(NAME_MAX);
        for label in labels {
            let length = u8::try_from(label.len()).ok()?;
            if length == 0 || usize::from(length) > LABEL_MAX {
                return None;
            }
            wire.push(length);
            wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
        }
        wire.extend(&*self.0);
        (wire.len() <= NAME_MAX).then(|| Self(wire.into()))
    }

    /// The labels, the host's first, without the root's empty one.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        suffixes(&self.0).map(|suffix| &suffix[1..=usize::from(suffix[0])])
    }

    /// The labels that this name has before `ancestor`. `None` if it is not `ancestor` or below it,
    /// or has labels there that are not UTF-8.
    pub fn labels_below(&self, ancestor: &Name) -> Option<Vec<&str>> {
        let own = self.0.len().checked_sub(ancestor.0.len())?;
        if self.0[own..] != *ancestor.0 {
            return None;
        }
        let (mut at, mut labels) = (0, Vec::new());
        while at < own {
            let end = at + 1 + usize::from(self.0[at]);
            labels.push(std::str::from_utf8(&self.0[at + 1..end]).ok()?);
            at = end;
        }
        // Past it, `ancestor` began in the middle of a label.
        (at == own).then_some(labels)
    }

    /// The name as it is on the wire, not compressed.
    pub(super) fn wire(&self) -> &[u8] {
        &self.0
    }

    /// Reads the name at `at`, compressed or not, and says where it ends.
    pub(super) fn read(message: &[u8], at: usize) -> Option<(Self, usize)> {
        let mut wire = Vec::new();
        let (mut at, mut end, mut pointed_from) = (at, None, at);
        loop {
            let length = *message.get(at)?;
            match length {
                0 => {
                    wire.push(0);
                    return Some((Self(wire.into()), end.unwrap_or(at + 1)));
                }
                1..=63 => {
                    let next = at + 1 + usize::from(length);
                    let label = message.get(at..next)?;
                    if wire.len() + label.len() >= NAME_MAX {
                        return None;
                    }
                    // A length is below any letter.
                    wire.extend(label.iter().map(u8::to_ascii_lowercase));
                    at = next;
                }
                0xc0.. => {
                    let low = *message.get(at + 1)?;
                    end = end.or(Some(at + 2));
                    let to = usize::from(length & 0x3f) << 8 | usize::from(low);
                    // Each one points further back than the one before, so that there is an end.
                    if to >= pointed_from {
                        return None;
                    }
                    (at, pointed_from) = (to, to);
                }
                _ => return None,
            }
        }
    }
}

/// A name on the wire and the names above it, without the root.
pub(super) fn suffixes(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let begin = Some(wire).filter(|wire| begins_label(wire));
    std::iter::successors(begin, |wire| {
        let rest = wire.get(1 + usize::from(wire[0])..)?;
        begins_label(rest).then_some(rest)
    })
}

fn begins_label(wire: &[u8]) -> bool {
    wire.first().is_some_and(|length| *length > 0)
}

/// With a dot at the end; octets that are no letters of a name are `\` and three digits.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() == 1 {
            return f.write_str(".");
        }
        for label in self.labels() {
            for byte in label {
                match byte {
                    b'.' | b'\\' | 0..=b' ' | 127.. => write!(f, "\\{byte:03}")?,
                    _ => write!(f, "{}", char::from(*byte))?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn names_are_the_same_in_any_case_with_and_without_the_last_dot() {
        assert_eq!(name("Web.Default.SVC."), name("web.default.svc"));
        assert_eq!(name("web.default").to_string(), "web.default.");
        assert_eq!(name(".").to_string(), ".");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = format!("{}.a", "a".repeat(64));
        let longer = vec!["abcdefg"; 32].join(".");
        for text in ["", "..", "a..b", ".a", &long, &longer] {
            assert_eq!(Name::parse(text), Err(InvalidName), "{text}");
        }
        assert!(Name::parse(&vec!["abcdefg"; 31].join(".")).is_ok());
    }

    #[test]
    fn the_labels_below_an_ancestor_begin_where_a_label_does() {
        let cluster = name("cluster.local");
        let below = |text: &str| name(text).labels_below(&cluster).map(|labels| labels.join(" "));
        assert_eq!(below("web.ns.svc.cluster.local").as_deref(), Some("web ns svc"));
        assert_eq!(below("cluster.local").as_deref(), Some(""));
        assert_eq!(below("local"), None);
        assert_eq!(below("mycluster.local"), None);
        // The octets of `cluster.local` at the end of a longer label.
        let mut wire = vec![16, b'x'];
        wire.extend(cluster.wire());
        wire.push(0);
        assert_eq!(Name(wire.into()).labels_below(&cluster), None);
    }

    #[test]
    fn pointers_are_followed_backwards_only() {
        let mut message = b"\x05lOcal\x00\x07cluster\xc0\x00\x03ns1\xc0\x07".to_vec();
        assert_eq!(Name::read(&message, 7), Some((name("cluster.local"), 17)));
        assert_eq!(Name::read(&message, 17), Some((name("ns1.cluster.local"), 23)));
        let at = message.len();
        for pointer in [at, at + 2] {
            message.extend([0xc0, u8::try_from(pointer).unwrap()]);
            assert_eq!(Name::read(&message, at), None);
            message.truncate(at);
        }
        assert_eq!(Name::read(b"\x01a\xc0\x00", 2), None, "a.a.a…");
        assert_eq!(Name::read(b"\x05lo", 0), None);
        assert_eq!(Name::read(b"\x45local\x00", 0), None, "no such kind of label");
    }
}
