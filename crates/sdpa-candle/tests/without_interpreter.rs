//! A CPU tensor is no CUDA tensor, unless the interpreter is asked for. Its own process: it changes the environment.

use candle_core::{DType, Device, Tensor};

#[test]
fn cpu_tensors_need_the_interpreter() {
    let q = Tensor::zeros((1, 8, 1, 64), DType::F16, &Device::Cpu).unwrap();
    let said = || sdpa_candle::flash_attn(&q, &q, &q, 0.1, false).map(drop).unwrap_err().to_string();
    for choice in [None, Some("auto"), Some("cuda")] {
        // SAFETY: the only test of this process.
        unsafe {
            match choice {
                None => std::env::remove_var("SDPA_DEVICE"),
                Some(choice) => std::env::set_var("SDPA_DEVICE", choice),
            }
        }
        assert!(said().contains("query is on the CPU") && said().contains("SDPA_DEVICE=interpreter"), "{}", said());
    }
    // SAFETY: as above.
    unsafe { std::env::set_var("SDPA_DEVICE", "gpu") };
    assert!(said().contains("it must be auto, cuda or interpreter"), "{}", said());
}
