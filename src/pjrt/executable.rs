//! Compiled programs: compiling, running, saving, and what is known about them.

use std::collections::BTreeMap;
use std::ptr::null_mut;
use std::sync::Arc;

use hlo::Shape;
use sha2::{Digest, Sha256};

use super::abi::*;
use super::api::{OptionValue, bytes, new, read_named_values, string};
use super::buffer::Buffer;
use super::client::{Client, ClientInner};
use super::error::{Error, Result};
use super::options::CompileOptions;
use super::signature::{Signature, strip_config};

/// A compiled program, loaded on its devices.
pub struct Executable {
    loaded: *mut PJRT_LoadedExecutable,
    raw: *mut PJRT_Executable,
    signature: Option<Signature>,
    num_outputs: usize,
    num_devices: usize,
    client: Arc<ClientInner>,
}

// SAFETY: PJRT executables may be used and destroyed from any thread; nothing here changes after creation.
unsafe impl Send for Executable {}
// SAFETY: as above.
unsafe impl Sync for Executable {}

impl Drop for Executable {
    fn drop(&mut self) {
        let api = self.client.api;
        // SAFETY: the only handles, destroyed once each. Failures have no remedy.
        unsafe {
            if !self.raw.is_null() {
                let _ = api.call(&mut PJRT_Executable_Destroy_Args {
                    executable: self.raw,
                    ..new()
                });
            }
            let _ = api.call(&mut PJRT_LoadedExecutable_Destroy_Args {
                executable: self.loaded,
                ..new()
            });
        }
    }
}

/// One argument of an execution.
#[derive(Debug)]
pub enum Arg<'a> {
    /// Read only; the buffer stays valid.
    Keep(&'a Buffer),
    /// Given away: where the program aliases this parameter with a result, its memory becomes the result's. The handle
    /// is consumed, also when the execution fails.
    Donate(Buffer),
}

impl Arg<'_> {
    fn buffer(&self) -> &Buffer {
        match self {
            Arg::Keep(buffer) => buffer,
            Arg::Donate(buffer) => buffer,
        }
    }
}

/// Device memory that a program needs, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryStats {
    /// Its parameters.
    pub argument_bytes: i64,
    /// Its results.
    pub output_bytes: i64,
    /// The part of the results that takes over parameters' memory.
    pub alias_bytes: i64,
    /// Scratch memory while it runs.
    pub temp_bytes: i64,
    /// Machine code.
    pub generated_code_bytes: i64,
    /// The most in use at any moment, where the plugin says so.
    pub peak_bytes: Option<i64>,
}

/// Begins every serialized executable of ours.
const MAGIC: &[u8; 8] = b"RIGLEXE1";
const DIGEST_BYTES: usize = 32;

impl Client {
    /// Compiles a serialized `HloModuleProto`.
    ///
    /// # Errors
    /// The compiler's own message, for instance for bytes that are no module.
    pub fn compile(&self, hlo_module_proto: &[u8], options: &CompileOptions) -> Result<Executable> {
        const FORMAT: &[u8] = b"hlo";
        let program = PJRT_Program {
            code: hlo_module_proto.as_ptr().cast_mut().cast(),
            code_size: hlo_module_proto.len(),
            format: FORMAT.as_ptr().cast(),
            format_size: FORMAT.len(),
            ..new()
        };
        let options = options.to_proto();
        let mut args = PJRT_Client_Compile_Args {
            client: self.0.raw,
            program: &program,
            compile_options: options.as_ptr().cast(),
            compile_options_size: options.len(),
            ..new()
        };
        // SAFETY: program and options live until after the call, and a compiler only reads the code; the executable is
        // ours.
        unsafe {
            self.0.api.call(&mut args)?;
            self.adopt(args.executable, Signature::of_module(hlo_module_proto))
        }
    }

    /// Loads what [`Executable::serialize`] wrote, on the same build of the same plugin.
    ///
    /// # Errors
    /// When the bytes are damaged or another build of the plugin wrote them.
    pub fn deserialize(&self, serialized: &[u8]) -> Result<Executable> {
        let (head, code) = unpack(serialized)?;
        let mut args = PJRT_Executable_DeserializeAndLoad_Args {
            client: self.0.raw,
            serialized_executable: code.as_ptr().cast(),
            serialized_executable_size: code.len(),
            ..new()
        };
        // SAFETY: the bytes live until after the call; the executable is ours.
        unsafe {
            self.0.api.call(&mut args)?;
            self.adopt(args.loaded_executable, Signature::of_module(head))
        }
    }

    /// # Safety
    /// `loaded` must be an executable of this client that nobody else destroys.
    unsafe fn adopt(&self, loaded: *mut PJRT_LoadedExecutable, signature: Option<Signature>) -> Result<Executable> {
        let client = Arc::clone(&self.0);
        let api = client.api;
        let mut executable = Executable {
            loaded,
            raw: null_mut(),
            signature: None,
            num_outputs: 0,
            num_devices: 0,
            client,
        };
        let mut inner = PJRT_LoadedExecutable_GetExecutable_Args {
            loaded_executable: loaded,
            ..new()
        };
        let mut devices = PJRT_LoadedExecutable_AddressableDevices_Args {
            executable: loaded,
            ..new()
        };
        let mut partitions = new::<PJRT_Executable_NumPartitions_Args>();
        let mut outputs = new::<PJRT_Executable_NumOutputs_Args>();
        // SAFETY: the loaded executable is alive, and so is the inner one, which is ours.
        unsafe {
            api.call(&mut inner)?;
            executable.raw = inner.executable;
            partitions.executable = inner.executable;
            outputs.executable = inner.executable;
            api.call(&mut devices)?;
            api.call(&mut partitions)?;
            api.call(&mut outputs)?;
        }
        executable.num_devices = devices.num_addressable_devices;
        executable.num_outputs = outputs.num_outputs;
        // With several partitions each device holds a part of every array, which the module's own shapes do not say.
        executable.signature =
            signature.filter(|s| partitions.num_partitions == 1 && s.results.len() == outputs.num_outputs);
        Ok(executable)
    }
}

impl Executable {
    /// Name of the module, for messages.
    pub fn name(&self) -> &str {
        self.signature.as_ref().map_or("program", |s| &s.name)
    }

    /// Number of results per device (a tuple at the root is flattened).
    pub fn num_outputs(&self) -> usize {
        self.num_outputs
    }

    /// Number of devices that one execution runs on.
    pub fn num_devices(&self) -> usize {
        self.num_devices
    }

    /// Shapes of the parameters, where the module states them.
    pub fn parameters(&self) -> Option<&[Shape]> {
        self.signature.as_ref().map(|s| s.parameters.as_slice())
    }

    /// Runs a program on its one device. Returns at once; the results may still be under way, and an error of the
    /// execution itself then shows when one of them is waited for or read.
    ///
    /// # Errors
    /// When the number of arguments, a shape or an element type is not the program's, or the plugin refuses to start.
    pub fn execute(&self, args: Vec<Arg<'_>>) -> Result<Vec<Buffer>> {
        Ok(self.execute_replicated(vec![args])?.pop().unwrap_or_default())
    }

    /// Runs a program on all its devices, with arguments and results as `[device][position]`, as
    /// [`Executable::execute`] does on one. An argument is donated where it is donated on every device.
    ///
    /// # Errors
    /// As [`Executable::execute`], and when the number of devices is not the program's.
    pub fn execute_replicated(&self, args: Vec<Vec<Arg<'_>>>) -> Result<Vec<Vec<Buffer>>> {
        self.check_arguments(&args)?;
        let num_args = args.first().map_or(0, Vec::len);
        let keep: Vec<i64> = (0..num_args)
            .filter(|&i| args.iter().any(|of_device| matches!(of_device[i], Arg::Keep(_))))
            .map(|i| i as i64)
            .collect();
        let inputs: Vec<Vec<*mut PJRT_Buffer>> = args
            .iter()
            .map(|of_device| of_device.iter().map(|a| a.buffer().raw).collect())
            .collect();
        let input_lists: Vec<*const *mut PJRT_Buffer> = inputs.iter().map(|list| list.as_ptr()).collect();
        let mut outputs = vec![vec![null_mut::<PJRT_Buffer>(); self.num_outputs]; args.len()];
        let output_lists: Vec<*mut *mut PJRT_Buffer> = outputs.iter_mut().map(|list| list.as_mut_ptr()).collect();
        let mut options = PJRT_ExecuteOptions {
            non_donatable_input_indices: keep.as_ptr(),
            num_non_donatable_input_indices: keep.len(),
            ..new()
        };
        let mut call = PJRT_LoadedExecutable_Execute_Args {
            executable: self.loaded,
            options: &mut options,
            argument_lists: input_lists.as_ptr(),
            num_devices: args.len(),
            num_args,
            output_lists: output_lists.as_ptr(),
            ..new()
        };
        // SAFETY: all lists live until after the call and have the lengths given: `check_arguments` made sure that every
        // device has `num_args` live buffers, and each output list has one place per result. Donated handles are owned
        // by `args` and dropped after the call, never read.
        unsafe { self.client.api.call(&mut call)? };
        drop(args);
        // Every device's results are adopted before the first error is returned, so that none leaks.
        let adopted: Vec<_> = outputs.into_iter().map(|list| self.adopt_outputs(list)).collect();
        adopted.into_iter().collect()
    }

    fn adopt_outputs(&self, list: Vec<*mut PJRT_Buffer>) -> Result<Vec<Buffer>> {
        let shape = |i: usize| self.signature.as_ref().map(|s| &s.results[i]);
        // SAFETY: the plugin filled every place with a buffer that is ours; the signature has one result per place.
        let adopt = |(i, raw)| unsafe { Buffer::from_raw(raw, shape(i), &self.client) };
        // Every place is adopted before the first error is returned, so that none leaks.
        let adopted: Vec<Result<Buffer>> = list.into_iter().enumerate().map(adopt).collect();
        adopted.into_iter().collect()
    }

    fn check_arguments(&self, args: &[Vec<Arg<'_>>]) -> Result<()> {
        let arity = |what, found, expected| Error::Arity {
            program: self.name().to_owned(),
            what,
            found,
            expected,
        };
        if args.len() != self.num_devices {
            return Err(arity("devices", args.len(), self.num_devices));
        }
        let expected = self
            .parameters()
            .map_or(args.first().map_or(0, Vec::len), <[Shape]>::len);
        for of_device in args {
            if of_device.len() != expected {
                return Err(arity("arguments", of_device.len(), expected));
            }
            let Some(parameters) = self.parameters() else { continue };
            for (index, (arg, parameter)) in of_device.iter().zip(parameters).enumerate() {
                let found = arg.buffer().shape();
                if found != parameter {
                    return Err(Error::ArgumentShape {
                        program: self.name().to_owned(),
                        index,
                        found: found.clone(),
                        expected: parameter.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Device memory that the program needs.
    ///
    /// # Errors
    /// When the plugin cannot say.
    pub fn memory_stats(&self) -> Result<MemoryStats> {
        let mut args = PJRT_Executable_GetCompiledMemoryStats_Args {
            executable: self.raw,
            ..new()
        };
        // SAFETY: the executable is alive.
        unsafe { self.client.api.call(&mut args)? };
        Ok(MemoryStats {
            argument_bytes: args.argument_size_in_bytes,
            output_bytes: args.output_size_in_bytes,
            alias_bytes: args.alias_size_in_bytes,
            temp_bytes: args.temp_size_in_bytes,
            generated_code_bytes: args.generated_code_size_in_bytes,
            peak_bytes: Some(args.peak_memory_in_bytes).filter(|&bytes| bytes > 0),
        })
    }

    /// The compiler's own estimate of operations, bytes and more, by its names (`flops`, `bytes accessed`); `None` where
    /// the plugin makes none.
    ///
    /// # Errors
    /// When the plugin fails to answer.
    pub fn cost_analysis(&self) -> Result<Option<BTreeMap<String, OptionValue>>> {
        let mut args = PJRT_Executable_GetCostAnalysis_Args {
            executable: self.raw,
            ..new()
        };
        // SAFETY: the executable is alive.
        match unsafe { self.client.api.call(&mut args) } {
            Err(e) if e.is_unimplemented() => return Ok(None),
            done => done?,
        }
        // SAFETY: the call returned this array, which lives as long as the executable.
        Ok(Some(unsafe { read_named_values(args.properties, args.num_properties) }))
    }

    /// The program after optimization, as a serialized `HloModuleProto`.
    ///
    /// # Errors
    /// When the plugin cannot give it, or gives another format.
    pub fn optimized_hlo(&self) -> Result<Vec<u8>> {
        let mut program = new::<PJRT_Program>();
        let mut args = PJRT_Executable_OptimizedProgram_Args {
            executable: self.raw,
            program: &mut program,
            ..new()
        };
        let mut code: Vec<u8>;
        // SAFETY: the first call asks for the size, the second fills a buffer of that size; both pointers live until
        // after it. The format's text belongs to the plugin.
        let format = unsafe {
            self.client.api.call(&mut args)?;
            code = vec![0; program.code_size];
            program.code = code.as_mut_ptr().cast();
            args.program = &mut program;
            self.client.api.call(&mut args)?;
            string(program.format, program.format_size)
        };
        let module = match format.as_str() {
            "hlo" => Some(code),
            "hlo_with_config" => strip_config(&code),
            _ => None,
        };
        module.ok_or(Error::Unexpected {
            call: "PJRT_Executable_OptimizedProgram",
            found: format!("a program in the format '{format}'"),
            expected: "hlo or hlo_with_config".into(),
        })
    }

    /// The plugin's own fingerprint of program, options and compiler; `None` where it makes none.
    ///
    /// # Errors
    /// When the plugin fails to answer.
    pub fn fingerprint(&self) -> Result<Option<String>> {
        let mut args = PJRT_Executable_Fingerprint_Args {
            executable: self.raw,
            ..new()
        };
        // SAFETY: the executable is alive, and so is the text, which belongs to it.
        match unsafe { self.client.api.call(&mut args) } {
            Err(e) if e.is_unimplemented() => Ok(None),
            Err(e) => Err(e),
            // SAFETY: as above.
            Ok(()) => Ok(Some(unsafe {
                string(args.executable_fingerprint, args.executable_fingerprint_size)
            })),
        }
    }

    /// The compiled program as bytes, for the same build of the same plugin: our magic number, a digest of the rest, the
    /// program's signature, and the plugin's own bytes.
    ///
    /// # Errors
    /// When the plugin cannot serialize.
    pub fn serialize(&self) -> Result<Vec<u8>> {
        let mut args = PJRT_Executable_Serialize_Args {
            executable: self.raw,
            ..new()
        };
        // SAFETY: the executable is alive; the bytes live until the deleter is called, once, after they were copied.
        unsafe {
            self.client.api.call(&mut args)?;
            let packed = pack(
                self.signature.as_ref(),
                bytes(args.serialized_bytes, args.serialized_bytes_size),
            );
            if let Some(delete) = args.serialized_executable_deleter {
                delete(args.serialized_executable);
            }
            Ok(packed)
        }
    }
}

fn pack(signature: Option<&Signature>, code: &[u8]) -> Vec<u8> {
    let head = signature.map_or(&[][..], |s| &s.module_head);
    let mut body = (head.len() as u64).to_le_bytes().to_vec();
    body.extend_from_slice(head);
    body.extend_from_slice(code);
    [MAGIC.as_slice(), &Sha256::digest(&body), &body].concat()
}

/// Checks the digest, so that a plugin never sees damaged bytes; returns signature and code.
fn unpack(serialized: &[u8]) -> Result<(&[u8], &[u8])> {
    let damaged = |what: &str| Error::Serialized(format!("{what} ({} bytes)", serialized.len()));
    let rest = serialized
        .strip_prefix(MAGIC)
        .ok_or_else(|| damaged("does not begin with RIGLEXE1"))?;
    let (digest, body) = rest
        .split_at_checked(DIGEST_BYTES)
        .ok_or_else(|| damaged("ends within its digest"))?;
    if Sha256::digest(body).as_slice() != digest {
        return Err(damaged("its digest does not match its contents"));
    }
    let (length, body) = body
        .split_first_chunk::<8>()
        .ok_or_else(|| damaged("ends within its header"))?;
    body.split_at_checked(u64::from_le_bytes(*length) as usize)
        .ok_or_else(|| damaged("ends within its signature"))
}
