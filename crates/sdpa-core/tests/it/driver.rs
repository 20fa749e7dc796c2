//! What the driver may answer, and what comes of it.

use std::collections::BTreeSet;

use crate::stub::Stub;

/// What `open(Auto)` says under a driver.
fn opened(stub: &Stub) -> String {
    stub.run("opens_what_there_is").said.join(" ")
}

fn failing(function: &str, code: i32) -> Stub {
    Stub::new().set("STUB_FAIL", format!("{function}={code}"))
}

#[test]
fn no_library_and_no_device_mean_no_gpu() {
    for stub in [Stub::absent(), failing("cuInit", 100), failing("cuDeviceGet", 100)] {
        let said = opened(&stub);
        assert!(said.starts_with("PTX interpreter"), "{said}");
    }
    assert_eq!(opened(&Stub::new()), "stub GPU 0 (sm_90, 132 multiprocessors)");
}

#[test]
fn every_other_code_is_an_error_with_advice() {
    for (function, code, advice) in [
        ("cuInit", 2, "see nvidia-smi"),
        ("cuInit", 34, "stub"),
        ("cuInit", 802, "nvidia-fabricmanager"),
        ("cuInit", 803, "restart the machine"),
        ("cuInit", 804, "LD_LIBRARY_PATH"),
        ("cuInit", 999, "nvidia_uvm"),
        ("cuDeviceGet", 101, "CUDA_VISIBLE_DEVICES"),
        ("cuDevicePrimaryCtxRetain", 2, "see nvidia-smi"),
        ("cuDevicePrimaryCtxRetain", 46, "another process"),
        ("cuStreamCreate", 999, "nvidia_uvm"),
    ] {
        let said = opened(&failing(function, code));
        let expected = format!("GPU 0 cannot be opened: NAME_OF_{code}, words for {code} (code {code}): ");
        assert!(said.starts_with(&expected) && said.contains(advice), "{function}: {said}");
        assert!(said.ends_with("; set SDPA_DEVICE=interpreter to go on without it"), "{said}");
    }
    // A code that neither cudarc nor the driver has a name for.
    assert_eq!(
        opened(&failing("cuInit", 12345)),
        "GPU 0 cannot be opened: an error that the driver has no name for (code 12345); \
         set SDPA_DEVICE=interpreter to go on without it"
    );
}

#[test]
fn a_library_that_does_not_load_is_no_missing_one() {
    let said = opened(&Stub::broken());
    assert!(said.starts_with("a CUDA driver is installed and its library does not load: "), "{said}");
    assert!(said.contains("libcuda.so") && said.ends_with("set SDPA_DEVICE=interpreter"), "{said}");
}

#[test]
fn a_missing_function_is_named_whichever_it_is() {
    let ran = Stub::new().run("does_everything");
    assert_eq!(ran.said.last().map(String::as_str), Some("ok"), "{:?}", ran.said);
    // What a healthy run calls, and what is called only to describe a failure or to free memory without pools.
    let mut functions: BTreeSet<&str> = ran.calls.iter().filter_map(|call| call.split(' ').next()).collect();
    functions.extend(["cuGetErrorName", "cuGetErrorString", "cuMemAlloc_v2", "cuMemFree_v2"]);
    assert!(functions.len() > 35 && functions.contains("cuTensorMapEncodeTiled"), "{functions:?}");
    for function in functions {
        let said = Stub::without(Some(function)).run("does_everything").said.join(" ");
        assert!(said.contains(&format!("library has no function {function}: ")), "{function}: {said}");
        assert!(said.contains("driver 580 or newer"), "{said}");
    }
}

#[test]
fn an_old_driver_is_told_which_one_is_needed() {
    let said = |stub: Stub| stub.run("does_everything").said.join(" ");
    let old = said(failing("cuModuleLoadData", 222).set("STUB_VERSION", "12040"));
    assert!(old.contains("this driver's newest is CUDA 12.4; install NVIDIA's driver 580 or newer"), "{old}");
    let silent = said(Stub::new().set("STUB_FAIL", "cuModuleLoadData=222,cuDriverGetVersion=3"));
    assert!(silent.contains("asking for the driver's version"), "{silent}");
    // An older compiler may take the new text for a broken one.
    let broken = said(failing("cuModuleLoadData", 218).set("STUB_VERSION", "12080"));
    assert!(broken.contains("newest is CUDA 12.8; install NVIDIA's driver 580"), "{broken}");
    let new = said(failing("cuModuleLoadData", 218));
    assert!(new.contains("v0/parts does not load: NAME_OF_218") && !new.contains("580"), "{new}");
}

/// Which texts and which codes were loaded.
fn loads(stub: Stub) -> (String, Vec<String>) {
    let ran = stub.run("loads_machine_code");
    let loads = ran.calls.iter().filter(|call| call.starts_with("cuModuleLoadData")).cloned().collect();
    (ran.said.join(" "), loads)
}

#[test]
fn machine_code_is_loaded_and_the_ptx_left_alone() {
    let (said, loads) = loads(Stub::new());
    assert_eq!(said, "ok");
    // Embedded code, once; a substituted text; substituted code.
    assert_eq!(loads, ["cuModuleLoadData(code)", "cuModuleLoadData", "cuModuleLoadData(code)"]);
}

#[test]
fn a_driver_that_does_not_take_the_code_compiles_the_ptx() {
    for code in ["200", "209"] {
        let (said, loads) = loads(Stub::new().set("STUB_CODE", code));
        assert_eq!(said, "v0/merge does not load: the machine code is none that this driver runs on this device");
        let expected = ["cuModuleLoadData(code)", "cuModuleLoadData", "cuModuleLoadData", "cuModuleLoadData(code)"];
        assert_eq!(loads, expected, "the text once by itself, and once as a substitute");
    }
}

#[test]
fn any_other_failure_to_load_code_is_an_error() {
    for code in ["2", "700", "999"] {
        let (said, loads) = loads(Stub::new().set("STUB_CODE", code));
        assert!(said.starts_with(&format!("v0/merge does not load: NAME_OF_{code}")), "{said}");
        assert_eq!(loads, ["cuModuleLoadData(code)"]);
    }
}

#[test]
fn memory_that_there_is_not_is_told_by_its_name() {
    let said = failing("cuMemAllocAsync", 2).run("does_everything").said.join(" ");
    assert!(said.starts_with("no memory for the words of tickets, 262144 bytes: NAME_OF_2"), "{said}");
}

#[test]
fn kernels_that_failed_are_told_from_refusals() {
    let said = |function, code| failing(function, code).run("does_everything").said.join(" ");
    let sticky = said("cuLaunchKernel", 700);
    assert!(sticky.contains("a kernel failed while it ran: NAME_OF_700"), "{sticky}");
    let refused = said("cuLaunchKernel", 701);
    assert!(refused.contains("v0/parts grid 2") && refused.contains("registers × threads"), "{refused}");
    let map = said("cuTensorMapEncodeTiled", 1);
    assert!(map.contains("no tensor map of query: encoding a tensor map: NAME_OF_1"), "{map}");
}

#[test]
fn every_call_has_its_context() {
    for (scenario, pools) in [
        ("does_everything", "1"),
        ("works_from_other_threads", "1"),
        ("uses_two_devices", "1"),
        ("works_from_other_threads", "0"),
        ("uses_two_devices", "0"),
    ] {
        let ran = Stub::new().set("STUB_DEVICES", "2").set("STUB_POOLS", pools).run(scenario);
        assert_eq!(ran.said.last().map(String::as_str), Some("ok"), "{scenario}: {:?}", ran.said);
        assert_eq!(ran.wrong_calls(), [""; 0], "{scenario}, pools {pools}");
    }
}

#[test]
fn threads_work_on_several_streams_and_devices_at_once() {
    for pools in ["1", "0"] {
        let ran = Stub::new().set("STUB_DEVICES", "2").set("STUB_POOLS", pools).run("works_from_many_threads_at_once");
        assert_eq!(ran.said, ["ok"]);
        assert_eq!(ran.wrong_calls(), [""; 0], "pools {pools}");
        let count = |name: &str| ran.calls.iter().filter(|call| call.starts_with(name)).count();
        assert_eq!(count("cuLaunchKernel"), 8 * 10 * 2 * 2, "8 threads, 10 rounds, 2 calls of 2 kernels");
        assert_eq!(count("cuModuleLoadData"), 4, "two kernels, loaded once per GPU");
        assert_eq!(count("cuMemFree"), count("cuMemAlloc"));
    }
}

#[test]
fn another_devices_buffers_are_refused() {
    let ran = Stub::new().set("STUB_DEVICES", "2").run("uses_two_devices");
    let refused = "lies in another device's memory: allocate it on the device that it is used with";
    let [forward, prepared, read, write, ok] = &ran.said[..] else { panic!("{:?}", ran.said) };
    assert_eq!([forward, prepared], [&format!("value {refused}"); 2]);
    assert_eq!([read, write], [&format!("the buffer {refused}"); 2]);
    assert_eq!(ok, "ok");
}

#[test]
fn after_prepare_a_graph_records_the_launches_and_nothing_else() {
    let ran = Stub::new().set("STUB_DEVICES", "2").run("records_a_graph_of_its_own");
    assert_eq!(ran.said, ["forward is recorded", "ok"]);
    assert_eq!(ran.wrong_calls(), [""; 0]);
    let calls = ran.between("cuStreamBeginCapture_v2", "cuStreamEndCapture");
    let launches = calls.iter().filter(|call| **call == "cuLaunchKernel").count();
    assert_eq!(launches, 4, "two kernels, twice");
    let harmless = ["cuCtxGetCurrent", "cuTensorMapReplaceAddress", "cuLaunchKernel", "cuStreamIsCapturing"];
    assert!(calls.iter().all(|call| harmless.contains(call)), "{calls:?}");
    // The second one has its workspace allocated and freed by the graph, and a buffer allocated.
    let ends: Vec<&String> = ran.calls.iter().filter(|call| call.starts_with("cuStreamEndCapture")).collect();
    assert_eq!(ends, ["cuStreamEndCapture nodes=4", "cuStreamEndCapture nodes=5"]);
    // What was dropped meanwhile is freed, later.
    let count = |name: &str| ran.calls.iter().filter(|call| call.starts_with(name)).count();
    assert_eq!(count("cuMemFreeAsync"), count("cuMemAllocAsync"));
}

#[test]
fn without_memory_pools_only_the_prepared_way_is_recorded() {
    let ran = Stub::new().set("STUB_DEVICES", "2").set("STUB_POOLS", "0").run("records_a_graph_of_its_own");
    let [refused, ok] = &ran.said[..] else { panic!("{:?}", ran.said) };
    assert!(refused.starts_with("allocating memory on a device without memory pools is not possible"), "{refused}");
    assert_eq!(ok, "ok");
    assert_eq!(ran.wrong_calls(), [""; 0]);
    let count = |name: &str| ran.calls.iter().filter(|call| call.starts_with(name)).count();
    assert_eq!(count("cuMemFree_v2"), count("cuMemAlloc_v2"));
}

#[test]
fn whatever_would_end_a_recording_is_refused_before_the_driver_is_asked() {
    let ran = Stub::new().run("is_refused_while_a_graph_is_recorded");
    assert_eq!(ran.wrong_calls(), [""; 0]);
    let (ok, refused) = ran.said.split_last().unwrap();
    assert_eq!((ok.as_str(), refused.len()), ("ok", 9), "{refused:?}");
    for said in refused {
        assert!(said.contains("not possible while the stream records a graph"), "{said}");
        assert!(said.contains("Attention::prepare") && said.ends_with("the recording is unharmed"), "{said}");
    }
    let calls = ran.between("cuStreamBeginCapture_v2", "cuStreamEndCapture");
    assert!(!calls.contains(&"cuLaunchKernel"), "{calls:?}");
}

#[test]
fn a_device_may_be_made_while_its_stream_records_a_graph() {
    for pools in ["1", "0"] {
        let ran = Stub::new().set("STUB_POOLS", pools).run("is_made_while_a_graph_is_recorded");
        let said: Vec<&str> = ran.said.iter().map(String::as_str).collect();
        let refused = "opening a device on a stream that is recording a graph is not possible";
        match (pools, &said[..]) {
            ("1", [first, second, "ok"]) => {
                assert!(first.starts_with(refused) && second.starts_with(refused), "{said:?}")
            }
            // `forward` allocates its workspace inside of the graph, which needs pools.
            ("0", [.., last]) => {
                assert!(last.contains("allocating memory on a device without memory pools"), "{said:?}")
            }
            _ => panic!("{said:?}"),
        }
        assert_eq!(ran.wrong_calls(), [""; 0], "pools {pools}");
    }
    let ran = Stub::new().run("is_made_while_a_graph_is_recorded");
    let count = |name: &str| ran.calls.iter().filter(|call| call.starts_with(name)).count();
    assert_eq!(count("cuMemFreeAsync"), count("cuMemAllocAsync"));
    assert_eq!(count("cuModuleLoadData"), 2, "two kernels, loaded once for all streams");
    let ends: Vec<&String> = ran.calls.iter().filter(|call| call.starts_with("cuStreamEndCapture")).collect();
    // Nothing; a workspace, two launches and its release; two launches.
    assert_eq!(ends, ["cuStreamEndCapture nodes=0", "cuStreamEndCapture nodes=4", "cuStreamEndCapture nodes=2"]);
}
