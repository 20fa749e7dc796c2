//! The program on machines whose driver fails: it says so and ends, and takes no broken GPU for none.

use std::path::Path;
use std::process::Command;

use super::sandbox::Sandbox;

/// What `sdpa verify` says with a stand-in for the driver, and which stand-in: `-D` renames a function away.
fn said(failing: &str, compiled_with: &[&str]) -> String {
    let sandbox = Sandbox::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdpa-core/tests/it/stub.c");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-pthread", "-o"]).arg(sandbox.path("libcuda.so.1")).arg(source).args(compiled_with);
    assert!(cc.status().expect("a C compiler called `cc` makes the stand-in for the driver").success());
    std::os::unix::fs::symlink("libcuda.so.1", sandbox.path("libcuda.so")).unwrap();
    let mut command = sandbox.command(&["verify", "v1", "L16 d64"]);
    command.env_remove("SDPA_DEVICE").env("LD_LIBRARY_PATH", sandbox.path("")).env("STUB_FAIL", failing);
    sandbox.said_by(&mut command)
}

#[test]
fn a_gpu_that_fails_is_an_error() {
    for (failing, words) in [
        ("cuInit=804", "(code 804): a cuda-compat library"),
        ("cuInit=803", "(code 803): the driver's library and its kernel module differ"),
        ("cuDevicePrimaryCtxRetain=2", "(code 2): other programs may hold the GPU's memory"),
        ("cuModuleLoadData=222", "NVIDIA's driver 580 or newer"),
    ] {
        let said = said(failing, &[]);
        assert!(said.contains(words) && said.ends_with("\nexit 2"), "{said}");
    }
}

#[test]
fn a_library_without_a_function_is_an_error() {
    let said = said("", &["-DcuMemcpyDtoHAsync_v2=removed"]);
    assert!(said.starts_with("error: the CUDA driver's library has no function cuMemcpyDtoHAsync_v2: "), "{said}");
    assert!(said.ends_with("\nexit 2"), "{said}");
}

#[test]
fn no_gpu_is_none() {
    let said = said("cuInit=100", &[]);
    assert!(said.starts_with("device: PTX interpreter") && said.ends_with("\nexit 0"), "{said}");
}
