//! Whether the host has the memory that is asked for: a program that takes more than there is gets killed, not an error.

use crate::{Error, Result};

/// Smaller requests are not looked at: a machine that has not as much is killed by anything.
const WORTH_ASKING: usize = 1 << 30;

/// Refuses more of the host's memory than there is, for what is called `name`. What is below a gigabyte is never refused.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn check_host_memory(name: &str, bytes: usize) -> Result<()> {
    let refused = |reason| Err(Error::OutOfMemory { name: name.to_owned(), bytes, reason });
    if bytes < WORTH_ASKING {
        return Ok(());
    }
    if let Some(available) = available().filter(|available| bytes > *available) {
        return refused(format!("this machine has {available} bytes available; use a smaller problem, or a GPU"));
    }
    match Vec::<u8>::new().try_reserve_exact(bytes) {
        Ok(()) => Ok(()),
        Err(error) => refused(format!("{error}; use a smaller problem")),
    }
}

/// What Linux would give without swapping; `None` elsewhere.
fn available() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_machine_has_is_refused() {
        for bytes in [0, 1 << 20, WORTH_ASKING - 1] {
            assert!(check_host_memory("it", bytes).is_ok(), "{bytes}");
        }
        for bytes in [1 << 50, 1 << 60, usize::MAX] {
            let said = check_host_memory("query", bytes).unwrap_err().to_string();
            assert!(said.starts_with(&format!("no memory for query, {bytes} bytes: ")), "{said}");
        }
    }
}
