//! Embeds `kernels/` (sources, headers and committed PTX), so that a program carries its kernels wherever it runs.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = fs::canonicalize(Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../../kernels"))?;
    println!("cargo::rerun-if-changed={}", root.display());

    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();

    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("embedded_kernels.rs");
    let mut table = fs::File::create(out)?;
    writeln!(table, "&[")?;
    for file in files {
        let name = file.strip_prefix(&root)?.to_str().ok_or("kernel paths are UTF-8")?.replace('\\', "/");
        writeln!(table, "    ({name:?}, include_str!({:?})),", file.display().to_string())?;
    }
    writeln!(table, "]")?;
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| ["cu", "cuh", "ptx"].iter().any(|known| extension == *known))
        {
            files.push(path);
        }
    }
    Ok(())
}
