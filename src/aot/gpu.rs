//! Descriptions of GPUs for XLA's compiler, which compiles for GPUs that are not attached; the compiler for TPUs knows its chips by name.

use super::chips::Generation;

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;

/// Properties that the compiler needs besides those of a [`Generation`], as in XLA's own descriptions of these GPUs.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Gpu {
    /// Vendor's name.
    pub model: &'static str,
    /// NVIDIA's compute capability, major and minor.
    pub capability: [u32; 2],
    /// f32 units per multiprocessor.
    pub lanes: u32,
    /// Clock, in GHz.
    pub clock: f64,
    /// L2 cache, in bytes.
    pub cache_bytes: u64,
    /// Shared memory per multiprocessor, in bytes; a thread block can use all but 1 KiB of it.
    pub shared_bytes: u64,
}

/// The same for every data-centre GPU of compute capability 8 and above (CUDA C++ Programming Guide, compute capabilities).
const THREADS: &str = "threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 \
    block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 \
    thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64 \
    registers_per_core_limit: 65536 registers_per_block_limit: 65536 shared_memory_per_block: 49152";

/// Minimum cuDNN version that programs run with.
const CUDNN: &str = "dnn_version_info { major: 9 minor: 10 }";

impl Gpu {
    /// XLA's `GpuTargetConfigProto`, as text.
    pub fn target(&self, generation: &Generation) -> String {
        let [major, minor] = self.capability;
        let device = [
            THREADS.to_owned(),
            format!("core_count: {}", generation.cores),
            format!("fpus_per_core: {}", self.lanes),
            format!("clock_rate_ghz: {}", self.clock),
            format!("memory_bandwidth: {:.0}", generation.memory_rate),
            format!("device_memory_size: {}", generation.memory_bytes),
            format!("l2_cache_size: {}", self.cache_bytes),
            format!("shared_memory_per_core: {}", self.shared_bytes),
            format!("shared_memory_per_block_optin: {}", self.shared_bytes - KIB),
            format!("cuda_compute_capability {{ major: {major} minor: {minor} }}"),
        ];
        let (device, model) = (device.join(" "), self.model);
        format!("gpu_device_info {{ {device} }} platform_name: 'CUDA' {CUDNN} device_description_str: '{model}'")
    }
}
