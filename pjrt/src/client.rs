//! A client: the devices of one plugin, and the memory and programs on them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::abi::*;
use crate::api::{Api, OptionValue, named_values, new, string};
use crate::device_kind::DeviceKind;
use crate::error::{Error, Result};
use crate::key_value::{Bridge, KeyValueStore};
use crate::plugin::Plugin;
use crate::threads::require_threads;

/// Options for starting a client.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// Number of devices that a CPU client simulates; `None` for the default of the plugin.
    pub cpu_device_count: Option<usize>,
    /// Further options of the plugin by name.
    pub extra: BTreeMap<String, OptionValue>,
    /// The processes that share the client's devices; `None` for a client of its own.
    pub group: Option<Group>,
}

/// A process of a group whose clients know each other's devices. Starting a client waits for the others.
#[derive(Clone)]
pub struct Group {
    /// Number of this process, from 0.
    pub process: usize,
    /// Number of processes.
    pub count: usize,
    /// The store through which they find each other.
    pub store: Arc<dyn KeyValueStore>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Group(process {} of {})", self.process, self.count)
    }
}

/// A device of any process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GlobalDevice {
    /// Id of the device, unique over all processes.
    pub id: i64,
    /// Process that can use it.
    pub process: usize,
}

impl ClientOptions {
    /// The defaults for a kind of device: one CPU device; on GPUs no preallocation of most of the memory.
    pub fn for_device(kind: DeviceKind) -> Self {
        let mut options = ClientOptions::default();
        match kind {
            DeviceKind::Cpu => options.cpu_device_count = Some(1),
            DeviceKind::Gpu => {
                options.extra.insert("preallocate".into(), OptionValue::Bool(false));
            }
            DeviceKind::Tpu => {}
        }
        options
    }

    /// Makes the client one of a group. GPU clients need its number; the TPU runtime knows it.
    pub fn in_group(mut self, kind: DeviceKind, group: Group) -> Self {
        if kind == DeviceKind::Gpu {
            for (name, value) in [("node_id", group.process), ("num_nodes", group.count)] {
                self.extra.insert(name.into(), OptionValue::Int(value as i64));
            }
        }
        self.group = Some(group);
        self
    }

    /// Sets the number of CPU devices.
    pub fn with_cpu_devices(mut self, count: usize) -> Self {
        self.cpu_device_count = Some(count);
        self
    }

    fn named(&self) -> BTreeMap<String, OptionValue> {
        let mut all = self.extra.clone();
        if let Some(count) = self.cpu_device_count {
            all.insert("cpu_device_count".into(), OptionValue::Int(count as i64));
        }
        all
    }
}

/// A running client; clones share it, and it ends after the last of its buffers and executables.
#[derive(Clone)]
pub struct Client(pub(super) Arc<ClientInner>);

pub(super) struct ClientInner {
    pub(super) api: Api,
    pub(super) raw: *mut PJRT_Client,
    pub(super) plugin: Plugin,
    pub(super) devices: Vec<*mut PJRT_Device>,
    /// Callbacks of the plugin; must outlive the client.
    _bridge: Option<Bridge>,
}

// SAFETY: PJRT clients and their devices may be used from any thread; the device list never changes.
unsafe impl Send for ClientInner {}
// SAFETY: as above.
unsafe impl Sync for ClientInner {}

impl Drop for ClientInner {
    fn drop(&mut self) {
        // SAFETY: last use: buffers and executables hold this struct by `Arc`. A failure has no remedy.
        let _ = unsafe {
            self.api.call(&mut PJRT_Client_Destroy_Args {
                client: self.raw,
                ..new()
            })
        };
    }
}

impl ClientInner {
    pub(super) fn device(&self, device: usize) -> Result<*mut PJRT_Device> {
        let count = self.devices.len();
        self.devices
            .get(device)
            .copied()
            .ok_or(Error::NoSuchDevice { device, count })
    }
}

/// One device of a client.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DeviceInfo {
    /// Id of the device, unique over all hosts.
    pub id: i32,
    /// The vendor's name of the device type, such as `cpu` or `TPU v5 lite`.
    pub kind: String,
    /// Description by the plugin.
    pub description: String,
    /// Memory in use, if the plugin reports it.
    pub memory: Option<DeviceMemory>,
}

/// Memory of one device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DeviceMemory {
    /// Currently allocated.
    pub in_use_bytes: i64,
    /// Peak allocation.
    pub peak_bytes: Option<i64>,
    /// Limit of allocation.
    pub limit_bytes: Option<i64>,
}

impl Client {
    pub(super) fn new(plugin: Plugin, options: &ClientOptions) -> Result<Client> {
        let api = plugin.api();
        let devices = options.cpu_device_count.unwrap_or(1);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        require_threads("XLA", 4 * cores + 2 * devices + 8)?;
        let bridge = options
            .group
            .as_ref()
            .map(|group| Bridge::new(Arc::clone(&group.store)));
        let options = options.named();
        let values = named_values(&options);
        let mut args = PJRT_Client_Create_Args {
            create_options: values.as_ptr(),
            num_options: values.len(),
            ..new()
        };
        if let Some(bridge) = &bridge {
            bridge.install(&mut args);
        }
        // SAFETY: the option array and the map that it points into live until after the call. Callbacks, where there are any,
        // are the bridge's, which lives as long as the client, or past the call where there is none.
        unsafe { api.call(&mut args)? };
        let mut inner = ClientInner {
            api,
            raw: args.client,
            plugin,
            devices: Vec::new(),
            _bridge: bridge,
        };
        let mut args = PJRT_Client_AddressableDevices_Args {
            client: inner.raw,
            ..new()
        };
        // SAFETY: the client is alive; the list belongs to it and is copied.
        unsafe {
            api.call(&mut args)?;
            if args.num_addressable_devices > 0 {
                let list = std::slice::from_raw_parts(args.addressable_devices, args.num_addressable_devices);
                inner.devices = list.to_vec();
            }
        }
        Ok(Client(Arc::new(inner)))
    }

    /// The plugin that the client runs on.
    pub fn plugin(&self) -> Plugin {
        self.0.plugin
    }

    /// Name of the platform, such as `cpu`, `cuda` or `tpu`.
    ///
    /// # Errors
    /// If the plugin fails to answer.
    pub fn platform_name(&self) -> Result<String> {
        let mut args = PJRT_Client_PlatformName_Args {
            client: self.0.raw,
            ..new()
        };
        // SAFETY: the client is alive, and so is the text, which belongs to it.
        unsafe {
            self.0.api.call(&mut args)?;
            Ok(string(args.platform_name, args.platform_name_size))
        }
    }

    /// Version of the platform's software.
    ///
    /// # Errors
    /// If the plugin fails to answer.
    pub fn platform_version(&self) -> Result<String> {
        let mut args = PJRT_Client_PlatformVersion_Args {
            client: self.0.raw,
            ..new()
        };
        // SAFETY: the client is alive, and so is the text, which belongs to it.
        unsafe {
            self.0.api.call(&mut args)?;
            Ok(string(args.platform_version, args.platform_version_size))
        }
    }

    /// Number of devices of this process; they are numbered from 0.
    pub fn device_count(&self) -> usize {
        self.0.devices.len()
    }

    /// The devices of this process.
    ///
    /// # Errors
    /// If the plugin fails to describe one.
    pub fn devices(&self) -> Result<Vec<DeviceInfo>> {
        self.0.devices.iter().map(|&device| self.describe(device)).collect()
    }

    /// Number of this process in its group; 0 for a single process.
    ///
    /// # Errors
    /// If the plugin fails to answer.
    pub fn process(&self) -> Result<usize> {
        let mut args = PJRT_Client_ProcessIndex_Args {
            client: self.0.raw,
            ..new()
        };
        // SAFETY: the client is alive.
        unsafe { self.0.api.call(&mut args)? };
        Ok(number(args.process_index))
    }

    /// The devices of this process, in the order of their numbers.
    ///
    /// # Errors
    /// If the plugin fails to answer.
    pub fn addressable_devices(&self) -> Result<Vec<GlobalDevice>> {
        self.0
            .devices
            .iter()
            .map(|&device| self.global_device(device))
            .collect()
    }

    /// The devices of all processes.
    ///
    /// # Errors
    /// If the plugin fails to answer.
    pub fn global_devices(&self) -> Result<Vec<GlobalDevice>> {
        let mut args = PJRT_Client_Devices_Args {
            client: self.0.raw,
            ..new()
        };
        // SAFETY: the client is alive; the list belongs to it and has the length given.
        let all = unsafe {
            self.0.api.call(&mut args)?;
            match args.num_devices {
                0 => &[],
                n => std::slice::from_raw_parts(args.devices, n),
            }
        };
        all.iter().map(|&device| self.global_device(device)).collect()
    }

    /// A device's description and its id.
    fn described(&self, device: *mut PJRT_Device) -> Result<(*mut PJRT_DeviceDescription, i32)> {
        let api = self.0.api;
        let mut of = PJRT_Device_GetDescription_Args { device, ..new() };
        // SAFETY: the device belongs to the living client, and the description to the device.
        unsafe {
            api.call(&mut of)?;
            let device_description = of.device_description;
            let mut id = PJRT_DeviceDescription_Id_Args {
                device_description,
                ..new()
            };
            api.call(&mut id)?;
            Ok((device_description, id.id))
        }
    }

    fn global_device(&self, device: *mut PJRT_Device) -> Result<GlobalDevice> {
        let (device_description, id) = self.described(device)?;
        // SAFETY: the device belongs to the living client, and the description to the device.
        unsafe {
            let mut process = PJRT_DeviceDescription_ProcessIndex_Args {
                device_description,
                ..new()
            };
            self.0.api.call(&mut process)?;
            Ok(GlobalDevice {
                id: i64::from(id),
                process: number(process.process_index),
            })
        }
    }

    fn describe(&self, device: *mut PJRT_Device) -> Result<DeviceInfo> {
        let api = self.0.api;
        let (device_description, id) = self.described(device)?;
        // SAFETY: the device belongs to the living client, and the description and its texts to the device.
        unsafe {
            let mut kind = PJRT_DeviceDescription_Kind_Args {
                device_description,
                ..new()
            };
            let mut text = PJRT_DeviceDescription_DebugString_Args {
                device_description,
                ..new()
            };
            api.call(&mut kind)?;
            api.call(&mut text)?;
            Ok(DeviceInfo {
                id,
                kind: string(kind.device_kind, kind.device_kind_size),
                description: string(text.debug_string, text.debug_string_size),
                memory: self.memory(device)?,
            })
        }
    }

    fn memory(&self, device: *mut PJRT_Device) -> Result<Option<DeviceMemory>> {
        let mut args = PJRT_Device_MemoryStats_Args { device, ..new() };
        // SAFETY: the device belongs to the living client.
        match unsafe { self.0.api.call(&mut args) } {
            Err(e) if e.is_unimplemented() => Ok(None),
            Err(e) => Err(e),
            Ok(()) => Ok(Some(DeviceMemory {
                in_use_bytes: args.bytes_in_use,
                peak_bytes: args.peak_bytes_in_use_is_set.then_some(args.peak_bytes_in_use),
                limit_bytes: args.bytes_limit_is_set.then_some(args.bytes_limit),
            })),
        }
    }
}

/// The number of a process. Negative numbers mean none and become a number that no process has.
fn number(process: i32) -> usize {
    usize::try_from(process).unwrap_or(usize::MAX)
}
