//! The values of string and bytes literals (CEL specification, "String and Bytes Values").

/// A literal's text without prefix and quotes, and whether escapes in it count.
fn body(text: &str) -> (&str, bool) {
    let unprefixed = text.trim_start_matches(['b', 'B', 'r', 'R']);
    let raw = text[..text.len() - unprefixed.len()].contains(['r', 'R']);
    let quotes = if unprefixed.len() >= 6
        && (unprefixed.starts_with("\"\"\"") || unprefixed.starts_with("'''"))
    {
        3
    } else {
        1
    };
    (unprefixed.get(quotes..unprefixed.len() - quotes).unwrap_or(""), raw)
}

/// The string that a literal with valid escapes stands for.
///
/// # Errors
/// An escape that is no character, such as half a surrogate pair.
pub(crate) fn string(text: &str) -> Result<String, &'static str> {
    let (body, raw) = body(text);
    let body = body.replace("\r\n", "\n").replace('\r', "\n");
    if raw || !body.contains('\\') {
        return Ok(body);
    }
    let mut out = String::with_capacity(body.len());
    unescape(&body, |piece| match piece {
        Piece::Char(c) => out.push(c),
        // In a string, an octal or hexadecimal escape is a code point.
        Piece::Code(code) => out.push(char::from(code)),
    })?;
    Ok(out)
}

/// The bytes that a literal with valid escapes stands for.
///
/// # Errors
/// An escape that is no character.
pub(crate) fn bytes(text: &str) -> Result<Vec<u8>, &'static str> {
    let (body, raw) = body(text);
    let body = body.replace("\r\n", "\n").replace('\r', "\n");
    if raw || !body.contains('\\') {
        return Ok(body.into_bytes());
    }
    let mut out = Vec::with_capacity(body.len());
    unescape(&body, |piece| match piece {
        Piece::Char(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        // In bytes, it is a byte.
        Piece::Code(code) => out.push(code),
    })?;
    Ok(out)
}

enum Piece {
    Char(char),
    Code(u8),
}

fn unescape(body: &str, mut emit: impl FnMut(Piece)) -> Result<(), &'static str> {
    const BAD: &str = "unable to unescape string";
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            emit(Piece::Char(c));
            continue;
        }
        let kind = chars.next().ok_or(BAD)?;
        let mut number = |digits: usize, radix: u32, first: u32| {
            let mut value = first;
            for _ in 0..digits {
                let digit = chars.next().and_then(|c| c.to_digit(radix)).ok_or(BAD)?;
                value = value.wrapping_mul(radix).wrapping_add(digit);
            }
            Ok::<u32, &'static str>(value)
        };
        let piece = match kind {
            'a' => Piece::Char('\u{7}'),
            'b' => Piece::Char('\u{8}'),
            'f' => Piece::Char('\u{c}'),
            'n' => Piece::Char('\n'),
            'r' => Piece::Char('\r'),
            't' => Piece::Char('\t'),
            'v' => Piece::Char('\u{b}'),
            '"' | '\'' | '\\' | '?' | '`' => Piece::Char(kind),
            'x' | 'X' => Piece::Code(number(2, 16, 0)? as u8),
            'u' => Piece::Char(char::from_u32(number(4, 16, 0)?).ok_or(BAD)?),
            'U' => Piece::Char(char::from_u32(number(8, 16, 0)?).ok_or(BAD)?),
            '0'..='3' => Piece::Code(number(2, 8, kind.to_digit(8).unwrap_or(0))? as u8),
            _ => return Err(BAD),
        };
        emit(piece);
    }
    Ok(())
}
