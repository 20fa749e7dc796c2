//! What a candidate's PTX may not have, whatever it computes: a kernel is a function of its tensors.
//!
//! The only memory that a kernel knows is that of its parameters, which the judge makes anew, fills with poison and looks at. A
//! variable of its own in device memory would outlive the launch: answers could be remembered there, calls be counted, work be
//! left for the next call. The interpreter finds reads of what nobody wrote and writes to what is not the kernel's; these laws
//! close what is left.

/// Names of registers that a kernel must not read, and why.
const FORBIDDEN_REGISTERS: [(&str, &str); 2] = [("%clock", "reads the clock"), ("%globaltimer", "reads the clock")];

/// The law that a kernel's PTX breaks, in words; `None` if it breaks none.
pub fn broken_law(ptx: &str) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    for line in ptx.lines().map(str::trim_start) {
        if let Some(name) = variable(line) {
            names.push(name);
        }
        // Device functions of the module are allowed; one that is defined elsewhere is not.
        if line.starts_with(".extern .func") {
            return Some(format!("calls out: `{}` is defined outside of the kernel", line.trim_end()));
        }
    }
    for (index, line) in ptx.lines().enumerate() {
        let text = line.trim_start();
        if text.starts_with("//") || variable(text).is_some() {
            continue;
        }
        for (register, what) in FORBIDDEN_REGISTERS {
            if text.contains(register) {
                return Some(format!("{what}: PTX line {}: {}", index + 1, text.trim_end()));
            }
        }
        if let Some(name) = words(text).find(|word| names.contains(word)) {
            return Some(format!(
                "keeps state: the variable `{name}` in device memory outlives a call; PTX line {}: {}",
                index + 1,
                text.trim_end()
            ));
        }
    }
    None
}

/// The name of `.visible .global .align 4 .u32 answers[1024];`: a variable of the module in device memory.
fn variable(line: &str) -> Option<&str> {
    let declared = line.split_whitespace().take_while(|word| word.starts_with('.')).any(|word| word == ".global");
    if !declared || line.starts_with(".param") {
        return None;
    }
    let before = line.split(['=', ';', '[']).next()?;
    before.split_whitespace().last().filter(|word| !word.starts_with('.'))
}

/// The words that may be names.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '$')).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdpa::generations;

    #[test]
    fn every_generation_keeps_the_laws() {
        for generation in generations::ALL {
            let kernel = &generation.generation().specialisations[0];
            assert_eq!(broken_law(kernel.packed_ptx().unwrap()), None, "{kernel}");
        }
    }

    #[test]
    fn state_clocks_and_calls_are_named() {
        let with = |module: &str, body: &str| {
            broken_law(&format!(
                ".version 9.0\n.global .align 4 .f32 LN_2 = 0f3F317218;\n{module}\n.visible .entry attention()\n{{\n{body}\nret;\n}}\n"
            ))
        };
        assert_eq!(with("", "mov.f32 %f1, 0f3F317218;"), None);
        let state = with(".visible .global .align 4 .u32 calls;", "atom.global.add.u32 %r1, [calls], 1;").unwrap();
        assert!(state.starts_with("keeps state: the variable `calls`"), "{state}");
        let table = with(".visible .global .align 4 .b8 answers[64];", "mov.u64 %rd1, answers;").unwrap();
        assert!(table.contains("`answers`"), "{table}");
        assert!(with("", "mov.u64 %rd1, %clock64;").unwrap().starts_with("reads the clock"));
        assert!(with("", "mov.u64 %rd1, %globaltimer;").unwrap().starts_with("reads the clock"));
        let call = with(".extern .func  (.param .b32 x) cudaLaunchDeviceV2", "").unwrap();
        assert!(call.starts_with("calls out"), "{call}");
        // A table that cannot be written is no state.
        assert_eq!(with(".const .align 4 .b8 table[64];", "mov.u64 %rd1, table;"), None);
    }
}
