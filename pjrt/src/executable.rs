//! Compiled programs on their devices: compiling, loading and running.

use std::ptr::null_mut;
use std::sync::Arc;

use hlo::Shape;

use crate::abi::*;
use crate::api::new;
use crate::buffer::Buffer;
use crate::client::{Client, ClientInner};
use crate::compiled::{Compiled, program, unpack};
use crate::error::{Error, Result};
use crate::options::CompileOptions;
use crate::signature::Signature;

/// A compiled program, loaded on its devices.
pub struct Executable {
    loaded: *mut PJRT_LoadedExecutable,
    num_devices: usize,
    compiled: Compiled,
    client: Arc<ClientInner>,
}

// SAFETY: PJRT executables may be used and destroyed from any thread; nothing here changes after creation.
unsafe impl Send for Executable {}
// SAFETY: as above.
unsafe impl Sync for Executable {}

impl Drop for Executable {
    fn drop(&mut self) {
        // SAFETY: the only handle, destroyed once. A failure has no remedy.
        let _ = unsafe { destroy(&self.client, self.loaded) };
    }
}

/// # Safety
/// `loaded` must be an executable of this client that nobody uses or destroys afterwards.
unsafe fn destroy(client: &ClientInner, loaded: *mut PJRT_LoadedExecutable) -> Result<()> {
    // SAFETY: as the caller says.
    unsafe {
        client.api.call(&mut PJRT_LoadedExecutable_Destroy_Args {
            executable: loaded,
            ..new()
        })
    }
}

/// One argument of an execution.
#[derive(Debug)]
pub enum Arg<'a, B = Buffer> {
    /// Read only; the buffer stays valid.
    Keep(&'a B),
    /// Donated: if the program aliases this parameter with a result, the result reuses its memory. The handle is consumed even
    /// if the execution fails.
    Donate(B),
}

impl<B> Arg<'_, B> {
    /// The array itself.
    pub fn buffer(&self) -> &B {
        match self {
            Arg::Keep(buffer) => buffer,
            Arg::Donate(buffer) => buffer,
        }
    }
}

/// Returns freed memory to the system. A compiler allocates hundreds of megabytes in small pieces, which malloc would keep.
fn release_free_memory() {
    // SAFETY: the call only gives back pages that malloc does not use.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

impl Client {
    /// Compiles a program: a serialized `HloModuleProto`, or the text of a StableHLO module.
    ///
    /// # Errors
    /// The compiler's message, for instance for bytes that are not a module.
    pub fn compile(&self, code: &[u8], options: &CompileOptions) -> Result<Executable> {
        let program = program(code);
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
        let executable = unsafe {
            self.0.api.call(&mut args)?;
            self.adopt(args.executable, Signature::of_module(code))
        };
        release_free_memory();
        executable
    }

    /// Loads what [`Compiled::serialize`] wrote, on the same build of the same plugin.
    ///
    /// # Errors
    /// If the bytes are damaged or another build of the plugin wrote them.
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
        // SAFETY: the executable is ours; where this fails nothing else refers to it.
        unsafe {
            let adopted = self.compiled_of(loaded, signature);
            let (compiled, num_devices) = adopted.inspect_err(|_| drop(destroy(&self.0, loaded)))?;
            Ok(Executable {
                loaded,
                num_devices,
                compiled,
                client: Arc::clone(&self.0),
            })
        }
    }

    /// The compiled program that was loaded, and the number of devices that it was loaded on.
    ///
    /// # Safety
    /// `loaded` must be a living executable of this client.
    unsafe fn compiled_of(
        &self,
        loaded: *mut PJRT_LoadedExecutable,
        signature: Option<Signature>,
    ) -> Result<(Compiled, usize)> {
        let api = self.0.api;
        let mut inner = PJRT_LoadedExecutable_GetExecutable_Args {
            loaded_executable: loaded,
            ..new()
        };
        let mut devices = PJRT_LoadedExecutable_AddressableDevices_Args {
            executable: loaded,
            ..new()
        };
        // SAFETY: the loaded executable is alive, and the inner one is ours.
        unsafe {
            api.call(&mut inner)?;
            let compiled = Compiled::adopt(api, inner.executable, signature)?;
            api.call(&mut devices)?;
            Ok((compiled, devices.num_addressable_devices))
        }
    }
}

impl Executable {
    /// The compiled program.
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// Name of the module, for messages.
    pub fn name(&self) -> &str {
        self.compiled.name()
    }

    /// Number of results per device (a tuple at the root is flattened).
    pub fn num_outputs(&self) -> usize {
        self.compiled.num_outputs
    }

    /// Number of devices that one execution runs on.
    pub fn num_devices(&self) -> usize {
        self.num_devices
    }

    /// Shapes of the parameters, if the module has them.
    pub fn parameters(&self) -> Option<&[Shape]> {
        self.compiled.signature.as_ref().map(|s| s.parameters.as_slice())
    }

    /// Runs a program on its single device. Returns before the results exist; an error of the execution then surfaces when a
    /// result is awaited or read.
    ///
    /// # Errors
    /// If the number, a shape or an element type of the arguments does not fit, or the plugin refuses to start.
    pub fn execute(&self, args: Vec<Arg<'_>>) -> Result<Vec<Buffer>> {
        Ok(self.execute_replicated(vec![args])?.pop().unwrap_or_default())
    }

    /// Runs a program on all its devices, with arguments and results as `[device][position]`, as
    /// [`Executable::execute`] does on one. An argument is donated where it is donated on every device.
    ///
    /// # Errors
    /// As [`Executable::execute`], and if the number of devices does not fit.
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
        let mut outputs = vec![vec![null_mut::<PJRT_Buffer>(); self.compiled.num_outputs]; args.len()];
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
        let shape = |i: usize| self.compiled.signature.as_ref().map(|s| &s.results[i]);
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
}
