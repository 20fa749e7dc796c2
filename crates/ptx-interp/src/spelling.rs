//! What an opcode is compared under: its text without what cannot change a result.

/// The opcode less cache hints, scopes, orderings and defaults.
///
/// A hint or a scope makes nothing different that a recording could show, so `ld.global.L1::no_allocate.u32` counts as
/// `ld.global.b32`. Moves and bit operations go by their width.
pub(crate) fn spelling(opcode: &str) -> String {
    let mut parts: Vec<&str> = opcode.split('.').filter(|part| !part.is_empty()).collect();
    let Some(&name) = parts.first() else { return String::new() };
    // `.cta` and `.ca` name things elsewhere: only these have them as scopes and hints.
    let copies = name == "cp";
    let fence = matches!(name, "fence" | "membar");
    parts.retain(|part| {
        let hint = part.starts_with("L1::") || part.starts_with("L2::");
        let default = matches!(*part, "weak" | "tile" | "uni" | "aligned") || matches!(*part, "volatile" | "mmio");
        let scope = matches!(*part, "cta" | "cluster" | "gpu" | "sys");
        let ordering = matches!(*part, "relaxed" | "acquire" | "release" | "acq_rel") && !fence;
        let cached = !copies && matches!(*part, "ca" | "cg" | "cs" | "cv" | "lu" | "wb" | "wt" | "nc");
        !(hint || default || scope || ordering || cached)
    });
    if name == "barrier" {
        parts[0] = "bar";
        // `barrier.cluster` lost its second part above.
        if opcode.starts_with("barrier.cluster") {
            parts.insert(1, "cluster");
        }
    }
    for part in &mut parts {
        if *part == "shared::cta" {
            *part = "shared";
        }
    }
    if matches!(name, "ld" | "ldu" | "st" | "mov" | "selp")
        && let Some(last) = parts.last_mut()
    {
        *last = match *last {
            "u16" | "f16" | "bf16" => "b16",
            "u32" | "f32" => "b32",
            "u64" | "s64" | "f64" => "b64",
            "s32" => "b32",
            other => other,
        };
    }
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::spelling;

    #[test]
    fn hints_and_scopes_are_left_out() {
        for (opcode, expected) in [
            ("ld.global.nc.L1::no_allocate.L2::256B.v4.u32", "ld.global.v4.b32"),
            ("st.release.gpu.global.s32", "st.global.b32"),
            ("ld.global.s16", "ld.global.s16"),
            ("cp.async.ca.shared.global.L2::128B", "cp.async.ca.shared.global"),
            ("barrier.cluster.arrive.release.aligned", "bar.cluster.arrive"),
            ("barrier.cta.sync.aligned", "bar.sync"),
            ("mbarrier.arrive.release.cta.shared::cta.b64", "mbarrier.arrive.shared.b64"),
            ("mbarrier.arrive.release.cluster.shared::cluster.b64", "mbarrier.arrive.shared::cluster.b64"),
            ("fence.acq_rel.cta", "fence.acq_rel"),
            ("", ""),
        ] {
            assert_eq!(spelling(opcode), expected);
        }
    }
}
