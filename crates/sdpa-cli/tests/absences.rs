//! What must never become true of the workspace, as DESIGN and ARCHITECTURE.md have it: each test reads manifests and sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sdpa::generations;
use sdpa_toolchain::Checkout;
use toml_edit::{DocumentMut, Item};

/// What a user's program may have to build.
const FOR_USERS: [&str; 6] = ["ptx-interp", "sdpa-core", "sdpa", "sdpa-cache", "sdpa-parallel", "sdpa-ref"];

fn root() -> PathBuf {
    Checkout::find().unwrap_or_else(|error| panic!("{error}")).root().to_owned()
}

fn manifest(package: &str) -> DocumentMut {
    let path = root().join(format!("crates/{package}/Cargo.toml"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every package in `crates/`, by its folder's name.
fn packages() -> Vec<String> {
    let entries = std::fs::read_dir(root().join("crates")).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn is_generation(package: &str) -> bool {
    package.strip_prefix("sdpa-").is_some_and(|id| generations::find(id).is_some())
}

/// Names in `[dependencies]`, and in `[dev-dependencies]` if these are wanted, too.
fn dependencies(package: &str, with_dev: bool) -> BTreeSet<String> {
    let manifest = manifest(package);
    let tables: &[&str] = if with_dev { &["dependencies", "dev-dependencies"] } else { &["dependencies"] };
    let items = tables.iter().filter_map(|name| manifest.get(name).and_then(Item::as_table_like));
    items.flat_map(|table| table.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()).collect()
}

/// Every Rust file of a package's `src`, without unit tests and comment lines.
fn sources(package: &str) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    collect(&root().join(format!("crates/{package}/src")), &mut found);
    found
}

fn collect(folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for path in std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            // Unit tests stand at a file's end.
            let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            found.insert(path.strip_prefix(root()).unwrap().to_owned(), code.join("\n"));
        }
    }
}

/// Lines of these packages' sources that hold one of these words.
fn lines_with(packages: &[String], words: &[&str]) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, text) in packages.iter().flat_map(|package| sources(package)) {
        let hits = text.lines().filter(|line| words.iter().any(|word| line.contains(word)));
        lines.extend(hits.map(|line| format!("{}: {}", path.display(), line.trim())));
    }
    lines
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn no_generation_depends_on_another() {
    for package in packages().into_iter().filter(|package| is_generation(package)) {
        assert_eq!(dependencies(&package, true), BTreeSet::from(["sdpa-core".to_owned()]), "{package}");
    }
}

#[test]
fn only_the_list_names_generations() {
    for package in packages().into_iter().filter(|package| package != "sdpa") {
        let named: Vec<String> = dependencies(&package, true).into_iter().filter(|name| is_generation(name)).collect();
        assert!(named.is_empty(), "{package} depends on {named:?}: ask sdpa::generations");
    }
}

#[test]
fn only_the_core_names_cudarc_and_the_interpreter_knows_nothing_of_ours() {
    for package in packages() {
        assert_eq!(dependencies(&package, true).contains("cudarc"), package == "sdpa-core", "{package}");
    }
    let ours = packages();
    assert!(dependencies("ptx-interp", true).iter().all(|name| !ours.contains(name)));
}

#[test]
fn arrows_point_down_only() {
    // From the bottom up; a package may use those before it.
    let order = [
        "ptx-interp",
        "sdpa-core",
        "sdpa-cache",
        "sdpa-ref",
        "sdpa",
        "sdpa-parallel",
        "sdpa-toolchain",
        "harness",
        "sdpa-bench",
        "sdpa-cli",
    ];
    let height = |name: &str| order.iter().position(|other| *other == name);
    for package in order {
        for used in dependencies(package, false) {
            assert!(height(&used) < height(package), "{package} uses {used}");
        }
    }
}

#[test]
fn what_users_build_has_no_build_script_and_prints_nothing() {
    let users: Vec<String> =
        packages().into_iter().filter(|name| is_generation(name) || FOR_USERS.contains(&name.as_str())).collect();
    for package in &users {
        assert!(!root().join(format!("crates/{package}/build.rs")).exists(), "{package} has a build script");
        assert!(manifest(package).get("build-dependencies").is_none(), "{package}");
    }
    let prints = lines_with(&users, &["println!", "print!", "dbg!", "io::stderr", "io::stdout"]);
    assert!(prints.is_empty(), "{}", prints.join("\n"));
    // Reading another folder when it is built would break a package outside of this repository.
    let outside = lines_with(&users, &["include_str!(\"../..", "include_bytes!(\"../..", "CARGO_MANIFEST_DIR"]);
    let outside: Vec<&String> = outside.iter().filter(|line| !line.contains("sdpa-core/../")).collect();
    assert!(outside.is_empty(), "{outside:?}");
}

#[test]
fn the_core_compiles_nothing_and_hashes_nothing() {
    let used = dependencies("sdpa-core", false);
    assert!(!used.contains("sha2") && !used.contains("zstd"), "{used:?}");
    assert_eq!(lines_with(&owned(&["sdpa-core"]), &["nvrtc::result", "nvrtc::sys", ".cuh\""]), [] as [String; 0]);
}

#[test]
fn one_place_probes_for_a_driver_one_loads_nccl_and_one_searches_path() {
    let probes = lines_with(&packages(), &["libcuda.so", "is_culib_present"]);
    let is_core = |line: &String| line.starts_with("crates/sdpa-core/src/device/cuda/library.rs");
    assert!(!probes.is_empty() && probes.iter().all(|line| is_core(line) || line.contains("#[error(")), "{probes:?}");
    let loads = lines_with(&packages(), &["libnccl.so", "\"ncclComm"]);
    let is_binding = |line: &String| line.starts_with("crates/sdpa-core/src/device/cuda/nccl.rs");
    assert!(!loads.is_empty() && loads.iter().all(|line| is_binding(line) || line.contains("no NCCL: ")), "{loads:?}");
    let searches = lines_with(&packages(), &["var_os(\"PATH\")", "var(\"PATH\")", "which::"]);
    assert!(searches.iter().all(|line| line.starts_with("crates/sdpa-toolchain/src/tools.rs")), "{searches:?}");
}

/// What the harness must know of a generation, `Generation` or `plan` tells it.
#[test]
fn nothing_matches_on_a_generations_id() {
    let rooms = owned(&[
        "sdpa-core",
        "sdpa-cache",
        "sdpa-parallel",
        "sdpa-toolchain",
        "harness",
        "sdpa-bench",
        "sdpa-cli",
        "sdpa-ref",
    ]);
    let ids = generations::ids();
    let arms: Vec<String> =
        ids.iter().flat_map(|id| [format!("\"{id}\" =>"), format!("== \"{id}\""), format!("\"{id}\" |")]).collect();
    let arms: Vec<&str> = arms.iter().map(String::as_str).collect();
    assert_eq!(lines_with(&rooms, &arms), [] as [String; 0]);
}

#[test]
fn generations_launch_nothing_themselves() {
    let generations: Vec<String> = packages().into_iter().filter(|name| is_generation(name)).collect();
    assert_eq!(lines_with(&generations, &["fn forward", ".launch(", "unsafe"]), [] as [String; 0]);
}

#[test]
fn the_oracle_never_calls_a_kernel() {
    let oracle = lines_with(&owned(&["sdpa-ref"]), &["Device", "Attention", "Launch", "ptx"]);
    assert!(oracle.is_empty(), "{}", oracle.join("\n"));
    let used = dependencies("sdpa-ref", false);
    assert!(!used.contains("sdpa") && !used.contains("ptx-interp"), "{used:?}");
}
