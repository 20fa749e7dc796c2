//! Names as their authors wrote them.

/// The name in a mangled name, without namespaces' versions, template arguments and parameters:
/// `_ZN3foo3barILi2EEEvi` is `foo::bar`. What is not understood is given as it is.
pub(super) fn plain_name(mangled: &str) -> String {
    let Some(rest) = mangled.strip_prefix("_Z") else { return mangled.to_string() };
    // Something local to a function: a lambda is all that compilers inline there.
    if let Some((function, _)) = rest.strip_prefix('Z').and_then(|rest| rest.split_once("Ul")) {
        return format!("{}::(lambda)", plain_name(&format!("_Z{}", function.trim_end_matches("NK"))));
    }
    let nested = rest.starts_with('N');
    let mut rest = if nested { rest[1..].trim_start_matches(['K', 'V', 'r', 'O', 'R']) } else { rest };
    let mut parts: Vec<&str> = Vec::new();
    loop {
        // Template arguments end the name for a reader, unless more of it follows behind them.
        let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        let Ok(length) = rest[..digits].parse::<usize>() else { break };
        let Some(part) = rest.get(digits..digits + length) else { break };
        parts.push(part);
        rest = &rest[digits + length..];
        if !nested {
            break;
        }
        if rest.starts_with('I') {
            rest = behind_arguments(rest);
        }
    }
    if parts.is_empty() { mangled.to_string() } else { parts.join("::") }
}

/// What follows `I…E`.
fn behind_arguments(text: &str) -> &str {
    let mut depth = 0usize;
    let mut bytes = text.bytes().enumerate();
    while let Some((index, byte)) = bytes.next() {
        match byte {
            b'I' | b'N' | b'L' | b'X' | b'J' => depth += 1,
            b'E' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return &text[index + 1..];
                }
            }
            b'0'..=b'9'
                if depth > 0
                    && !text[..index]
                        .ends_with(|before: char| before.is_ascii_digit() || "ijlmbLn".contains(before)) =>
            {
                // A name: its letters mean nothing.
                let digits = text[index..].bytes().take_while(u8::is_ascii_digit).count();
                let length = text[index..index + digits].parse().unwrap_or(0);
                for _ in 1..digits + length {
                    bytes.next();
                }
            }
            _ => {}
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::plain_name;

    #[test]
    fn names_lose_what_a_reader_does_not_need() {
        for (mangled, plain) in [
            ("_Z6squarei", "square"),
            ("_Z5fenceILi1EEvv", "fence"),
            ("_ZN3foo3barILi2EEEvi", "foo::bar"),
            ("_ZN3foo3BarILj8EE4swapILi2EEEvi", "foo::Bar::swap"),
            ("_ZNK1A1fEv", "A::f"),
            ("_ZZ9attentionENKUliE_clEi", "attention::(lambda)"),
            ("_ZZN3foo3barILi2EEEviENKUlvE0_clEv", "foo::bar::(lambda)"),
            ("kernel", "kernel"),
            ("_Z", "_Z"),
            ("_ZN", "_ZN"),
            ("_Z99x", "_Z99x"),
        ] {
            assert_eq!(plain_name(mangled), plain);
        }
    }
}
