//! Compiled programs, with or without a device.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::abi::*;
use crate::api::{Api, OptionValue, bytes, new, read_named_values, string};
use crate::error::{Error, Result};
use crate::signature::{Signature, strip_config};

/// A compiled program: its size, cost and code. Run it as an [`Executable`](crate::Executable).
pub struct Compiled {
    pub(super) raw: *mut PJRT_Executable,
    pub(super) signature: Option<Signature>,
    pub(super) num_outputs: usize,
    api: Api,
}

// SAFETY: PJRT executables may be asked and destroyed from any thread; nothing here changes after creation.
unsafe impl Send for Compiled {}
// SAFETY: as above.
unsafe impl Sync for Compiled {}

impl Drop for Compiled {
    fn drop(&mut self) {
        // SAFETY: the only handle, destroyed once. A failure has no remedy.
        let _ = unsafe {
            self.api.call(&mut PJRT_Executable_Destroy_Args {
                executable: self.raw,
                ..new()
            })
        };
    }
}

/// Device memory that a program needs, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryStats {
    /// Parameters.
    pub argument_bytes: i64,
    /// Results.
    pub output_bytes: i64,
    /// The part of the results that reuses the memory of parameters.
    pub alias_bytes: i64,
    /// Temporary memory.
    pub temp_bytes: i64,
    /// Machine code.
    pub generated_code_bytes: i64,
    /// Peak memory, if the plugin reports it.
    pub peak_bytes: Option<i64>,
}

impl MemoryStats {
    /// Memory that the program needs, in bytes: the peak, or else the sum of all parts.
    pub fn needed_bytes(&self) -> u64 {
        let together = self.argument_bytes + self.output_bytes - self.alias_bytes + self.temp_bytes;
        u64::try_from(self.peak_bytes.unwrap_or(together)).unwrap_or(0)
    }
}

impl Compiled {
    /// # Safety
    /// `raw` must be an executable of this plugin that nobody else destroys.
    pub(super) unsafe fn adopt(api: Api, raw: *mut PJRT_Executable, signature: Option<Signature>) -> Result<Compiled> {
        // Made first, so that it is destroyed where something below fails.
        let mut compiled = Compiled {
            raw,
            signature: None,
            num_outputs: 0,
            api,
        };
        let mut partitions = PJRT_Executable_NumPartitions_Args {
            executable: raw,
            ..new()
        };
        let mut outputs = PJRT_Executable_NumOutputs_Args {
            executable: raw,
            ..new()
        };
        // SAFETY: the executable is alive.
        unsafe {
            api.call(&mut partitions)?;
            api.call(&mut outputs)?;
        }
        compiled.num_outputs = outputs.num_outputs;
        // With several partitions each device holds a part of every array, which the module's own shapes do not say.
        compiled.signature =
            signature.filter(|s| partitions.num_partitions == 1 && s.results.len() == outputs.num_outputs);
        Ok(compiled)
    }

    /// Name of the module, for messages.
    pub fn name(&self) -> &str {
        self.signature.as_ref().map_or("program", |s| &s.name)
    }

    /// Device memory that the program needs.
    ///
    /// # Errors
    /// If the plugin fails to answer.
    pub fn memory_stats(&self) -> Result<MemoryStats> {
        let mut args = PJRT_Executable_GetCompiledMemoryStats_Args {
            executable: self.raw,
            ..new()
        };
        // SAFETY: the executable is alive.
        unsafe { self.api.call(&mut args)? };
        Ok(MemoryStats {
            argument_bytes: args.argument_size_in_bytes,
            output_bytes: args.output_size_in_bytes,
            alias_bytes: args.alias_size_in_bytes,
            temp_bytes: args.temp_size_in_bytes,
            generated_code_bytes: args.generated_code_size_in_bytes,
            peak_bytes: Some(args.peak_memory_in_bytes).filter(|&bytes| bytes > 0),
        })
    }

    /// The compiler's estimates, such as `flops` and `bytes accessed`; `None` if the plugin has none.
    ///
    /// # Errors
    /// If the plugin fails to answer.
    pub fn cost_analysis(&self) -> Result<Option<BTreeMap<String, OptionValue>>> {
        let mut args = PJRT_Executable_GetCostAnalysis_Args {
            executable: self.raw,
            ..new()
        };
        // SAFETY: the executable is alive.
        match unsafe { self.api.call(&mut args) } {
            Err(e) if e.is_unimplemented() => return Ok(None),
            done => done?,
        }
        // SAFETY: the call returned this array, which lives as long as the executable.
        Ok(Some(unsafe { read_named_values(args.properties, args.num_properties) }))
    }

    /// The program after optimization, as a serialized `HloModuleProto`.
    ///
    /// # Errors
    /// If the plugin cannot give it, or gives another format.
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
            self.api.call(&mut args)?;
            code = vec![0; program.code_size];
            program.code = code.as_mut_ptr().cast();
            args.program = &mut program;
            self.api.call(&mut args)?;
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

    /// The plugin's fingerprint of program, options and compiler; `None` if it has none.
    ///
    /// # Errors
    /// If the plugin fails to answer.
    pub fn fingerprint(&self) -> Result<Option<String>> {
        let mut args = PJRT_Executable_Fingerprint_Args {
            executable: self.raw,
            ..new()
        };
        // SAFETY: the executable is alive, and so is the text, which belongs to it.
        match unsafe { self.api.call(&mut args) } {
            Err(e) if e.is_unimplemented() => Ok(None),
            Err(e) => Err(e),
            // SAFETY: as above.
            Ok(()) => Ok(Some(unsafe {
                string(args.executable_fingerprint, args.executable_fingerprint_size)
            })),
        }
    }

    /// Serialises the program for the same build of the plugin: a magic number, a digest of the rest, the program's signature, and
    /// the plugin's bytes.
    ///
    /// # Errors
    /// If the plugin cannot serialize.
    pub fn serialize(&self) -> Result<Vec<u8>> {
        let mut args = PJRT_Executable_Serialize_Args {
            executable: self.raw,
            ..new()
        };
        // SAFETY: the executable is alive; the bytes live until the deleter is called, once, after they were copied.
        unsafe {
            self.api.call(&mut args)?;
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

/// A program for the C API with its format: text that begins like a module is StableHLO, anything else HLO. Borrows `code`.
pub(super) fn program(code: &[u8]) -> PJRT_Program {
    let format = if code.starts_with(b"module ") { "mlir" } else { "hlo" };
    PJRT_Program {
        code: code.as_ptr().cast_mut().cast(),
        code_size: code.len(),
        format: format.as_ptr().cast(),
        format_size: format.len(),
        ..new()
    }
}

/// Magic number of serialised executables.
const MAGIC: &[u8; 8] = b"RIGLEXE1";
const DIGEST_BYTES: usize = 32;

fn pack(signature: Option<&Signature>, code: &[u8]) -> Vec<u8> {
    let head = signature.map_or(&[][..], |s| &s.module_head);
    let mut body = (head.len() as u64).to_le_bytes().to_vec();
    body.extend_from_slice(head);
    body.extend_from_slice(code);
    [MAGIC.as_slice(), &Sha256::digest(&body), &body].concat()
}

/// Checks the digest, so that plugins never read damaged bytes. Returns signature and code.
pub(super) fn unpack(serialized: &[u8]) -> Result<(&[u8], &[u8])> {
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
