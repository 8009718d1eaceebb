//! Descriptions of absent devices, to compile programs for them.

use crate::abi::*;
use crate::api::{OptionValue, named_values, new, string};
use crate::compiled::{Compiled, program};
use crate::error::Result;
use crate::options::CompileOptions;
use crate::plugin::Plugin;
use crate::signature::Signature;
use std::collections::BTreeMap;

/// A set of devices, described by name.
pub struct Topology {
    raw: *mut PJRT_TopologyDescription,
    plugin: Plugin,
}

// SAFETY: a topology never changes and may be used and destroyed from any thread.
unsafe impl Send for Topology {}
// SAFETY: as above.
unsafe impl Sync for Topology {}

impl Drop for Topology {
    fn drop(&mut self) {
        // SAFETY: the only handle, destroyed once. A failure has no remedy.
        let _ = unsafe {
            self.plugin.api().call(&mut PJRT_TopologyDescription_Destroy_Args {
                topology: self.raw,
                ..new()
            })
        };
    }
}

impl Plugin {
    /// The devices with this name, such as `v5e:2x2` with the TPU plugin, or those of the plugin's options.
    ///
    /// # Errors
    /// If the plugin does not know the name or an option, or describes no devices at all.
    pub fn topology(&self, name: &str, options: &BTreeMap<String, OptionValue>) -> Result<Topology> {
        let options = named_values(options);
        let mut args = PJRT_TopologyDescription_Create_Args {
            topology_name: name.as_ptr().cast(),
            topology_name_size: name.len(),
            create_options: options.as_ptr(),
            num_options: options.len(),
            ..new()
        };
        // SAFETY: the name, the option array and the map that it points into live until after the call; the topology is ours.
        unsafe { self.api().call(&mut args)? };
        Ok(Topology {
            raw: args.topology,
            plugin: *self,
        })
    }
}

impl Topology {
    /// The vendor's names of the devices, such as `TPU v5 lite`, in the order of their ids.
    ///
    /// # Errors
    /// If the plugin fails to describe them.
    pub fn device_kinds(&self) -> Result<Vec<String>> {
        let api = self.plugin.api();
        let mut args = PJRT_TopologyDescription_GetDeviceDescriptions_Args {
            topology: self.raw,
            ..new()
        };
        // SAFETY: the topology is alive; the list belongs to it, and its elements and their texts to the plugin.
        unsafe {
            api.call(&mut args)?;
            let mut kinds = Vec::with_capacity(args.num_descriptions);
            for i in 0..args.num_descriptions {
                let mut kind = PJRT_DeviceDescription_Kind_Args {
                    device_description: args.descriptions.add(i).read(),
                    ..new()
                };
                api.call(&mut kind)?;
                kinds.push(string(kind.device_kind, kind.device_kind_size));
            }
            Ok(kinds)
        }
    }

    /// Compiles a program for these devices, as [`Client::compile`](crate::Client::compile) does.
    ///
    /// # Errors
    /// The compiler's message.
    pub fn compile(&self, code: &[u8], options: &CompileOptions) -> Result<Compiled> {
        let program = program(code);
        let options = options.to_proto();
        let mut args = PJRT_Compile_Args {
            topology: self.raw,
            program: &program,
            compile_options: options.as_ptr().cast(),
            compile_options_size: options.len(),
            ..new()
        };
        // SAFETY: program and options live until after the call, and a compiler only reads the code; no client is given;
        // the executable is ours.
        unsafe {
            self.plugin.api().call(&mut args)?;
            Compiled::adopt(self.plugin.api(), args.executable, Signature::of_module(code))
        }
    }
}
