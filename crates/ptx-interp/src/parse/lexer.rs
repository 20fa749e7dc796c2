//! PTX text to tokens. Every byte string is accepted or refused with a line number; nothing panics.

use super::ParseError;

/// What a token is; its text is a slice of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A name, an opcode with all its qualifiers, a directive or a number: `%r1`, `ld.global.f32`, `.reg`, `0x10`.
    Word,
    /// A quoted string, quotes excluded.
    Text,
    /// One byte of punctuation.
    Punctuation(u8),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub kind: TokenKind,
    pub text: &'a str,
    /// Byte offset of the token in the source.
    pub start: usize,
    pub line: u32,
}

impl Token<'_> {
    pub(super) fn is(&self, punctuation: u8) -> bool {
        self.kind == TokenKind::Punctuation(punctuation)
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

pub(super) fn tokenize(source: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let bytes = source.as_bytes();
    let mut tokens = Vec::with_capacity(bytes.len() / 5);
    let mut line = 1u32;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\n' => {
                line += 1;
                at += 1;
            }
            _ if byte.is_ascii_whitespace() => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let opened = line;
                at += 2;
                loop {
                    match bytes.get(at) {
                        None => return Err(ParseError::new(opened, "comment without an end", "/*")),
                        Some(b'*') if bytes.get(at + 1) == Some(&b'/') => {
                            at += 2;
                            break;
                        }
                        Some(b'\n') => {
                            line += 1;
                            at += 1;
                        }
                        Some(_) => at += 1,
                    }
                }
            }
            b'"' => {
                let start = at + 1;
                let mut end = start;
                while end < bytes.len() && bytes[end] != b'"' && bytes[end] != b'\n' {
                    end += 1;
                }
                if bytes.get(end) != Some(&b'"') {
                    return Err(ParseError::new(line, "string without an end", "\""));
                }
                // Both ends lie next to an ASCII quote, so they are character boundaries.
                tokens.push(Token { kind: TokenKind::Text, text: &source[start..end], start: at, line });
                at = end + 1;
            }
            _ if is_word_byte(byte) => {
                let start = at;
                loop {
                    match bytes.get(at) {
                        Some(&next) if is_word_byte(next) => at += 1,
                        Some(b':') if bytes.get(at + 1) == Some(&b':') => at += 2,
                        _ => break,
                    }
                }
                // `.reg.b16` is two words.
                let mut first = start;
                if source[start..at].starts_with(".reg.") {
                    first = start + ".reg".len();
                    tokens.push(Token { kind: TokenKind::Word, text: &source[start..first], start, line });
                }
                tokens.push(Token { kind: TokenKind::Word, text: &source[first..at], start: first, line });
            }
            b'{' | b'}' | b'[' | b']' | b'(' | b')' | b'<' | b'>' | b',' | b';' | b':' | b'@' | b'!' | b'|' | b'+'
            | b'-' | b'=' | b'*' | b'&' | b'~' | b'/' => {
                tokens.push(Token { kind: TokenKind::Punctuation(byte), text: &source[at..at + 1], start: at, line });
                at += 1;
            }
            _ => {
                let character = source[at..].chars().next().map(String::from).unwrap_or_default();
                return Err(ParseError::new(line, "character that PTX does not use", &character));
            }
        }
    }
    Ok(tokens)
}
