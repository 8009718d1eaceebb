//! Arrays on devices and their transfers.

use std::sync::Arc;

use hlo::{Literal, Shape};

use crate::abi::*;
use crate::api::{Event, new};
use crate::client::{Client, ClientInner};
use crate::error::{Error, Result};
use crate::signature::{buffer_type, from_buffer_type};

/// The only handle to one array on one device; the memory is freed on drop.
///
/// A transfer or execution may still be writing it; reading waits.
pub struct Buffer {
    pub(super) raw: *mut PJRT_Buffer,
    shape: Shape,
    client: Arc<ClientInner>,
}

// SAFETY: PJRT buffers may be used and destroyed from any thread; the handle itself never changes.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the only handle, destroyed once; the plugin keeps the memory while running programs use it.
        let _ = unsafe {
            self.client.api.call(&mut PJRT_Buffer_Destroy_Args {
                buffer: self.raw,
                ..new()
            })
        };
    }
}

impl Client {
    /// Copies a host array to a device. The plugin copies the bytes before this returns; a transfer continues in the background.
    ///
    /// # Errors
    /// If the device does not exist or the plugin refuses the array.
    pub fn to_device(&self, literal: &Literal, device: usize) -> Result<Buffer> {
        let semantics = PJRT_HostBufferSemantics_kImmutableOnlyDuringCall;
        // SAFETY: these semantics let the plugin read the bytes during the call only, and they are borrowed for it.
        let (buffer, done) = unsafe { self.start_transfer(literal, device, semantics)? };
        done.wait()?;
        Ok(buffer)
    }

    /// Sends a host array to a device without waiting. Keeps the bytes until the plugin has read them, and avoids a copy if
    /// possible.
    ///
    /// # Errors
    /// If the device does not exist or the plugin refuses the array. A failure of the transfer surfaces when the
    /// buffer is awaited or read.
    pub fn to_device_async(&self, literal: Literal, device: usize) -> Result<Buffer> {
        let semantics = PJRT_HostBufferSemantics_kImmutableUntilTransferCompletes;
        // SAFETY: the bytes are on the heap, unchanged, and freed only after the `done` event, which holds the literal.
        let (buffer, done) = unsafe { self.start_transfer(&literal, device, semantics)? };
        done.hold(literal)?;
        Ok(buffer)
    }

    /// # Safety
    /// The literal's bytes must stay readable and unchanged as long as `semantics` requires.
    unsafe fn start_transfer(
        &self,
        literal: &Literal,
        device: usize,
        semantics: PJRT_HostBufferSemantics,
    ) -> Result<(Buffer, Event)> {
        let api = self.0.api;
        let dims: Vec<i64> = literal.dims().iter().map(|&d| d as i64).collect();
        let mut args = PJRT_Client_BufferFromHostBuffer_Args {
            client: self.0.raw,
            data: literal.bytes().as_ptr().cast(),
            type_: buffer_type(literal.dtype()),
            dims: dims.as_ptr(),
            num_dims: dims.len(),
            host_buffer_semantics: semantics,
            device: self.0.device(device)?,
            ..new()
        };
        // SAFETY: the bytes are as long as the shape says (an invariant of `Literal`), in C order, which is what no
        // strides mean; the buffer and the event are ours.
        unsafe {
            api.call(&mut args)?;
            let done = Event::from_raw(api, args.done_with_host_buffer);
            Ok((
                Buffer {
                    raw: args.buffer,
                    shape: literal.shape().clone(),
                    client: Arc::clone(&self.0),
                },
                done,
            ))
        }
    }
}

impl Buffer {
    /// Takes ownership of a buffer. Asks the plugin for an unknown shape.
    ///
    /// # Safety
    /// `raw` must be a buffer of this client that nobody else destroys.
    pub(super) unsafe fn from_raw(
        raw: *mut PJRT_Buffer,
        shape: Option<&Shape>,
        client: &Arc<ClientInner>,
    ) -> Result<Buffer> {
        let unknown = Shape::scalar(hlo::DType::Pred);
        let mut buffer = Buffer {
            raw,
            shape: unknown,
            client: Arc::clone(client),
        };
        buffer.shape = match shape {
            Some(shape) => shape.clone(),
            None => buffer.ask_shape()?,
        };
        Ok(buffer)
    }

    fn ask_shape(&self) -> Result<Shape> {
        let mut element = PJRT_Buffer_ElementType_Args {
            buffer: self.raw,
            ..new()
        };
        let mut dimensions = PJRT_Buffer_Dimensions_Args {
            buffer: self.raw,
            ..new()
        };
        // SAFETY: the buffer is alive; the dimensions belong to it and are copied.
        let dims: Vec<usize> = unsafe {
            self.client.api.call(&mut element)?;
            self.client.api.call(&mut dimensions)?;
            let count = dimensions.num_dims;
            let list = if count == 0 {
                &[]
            } else {
                std::slice::from_raw_parts(dimensions.dims, count)
            };
            list.iter().map(|&d| d as usize).collect()
        };
        let dtype = from_buffer_type(element.type_).ok_or_else(|| Error::Unexpected {
            call: "PJRT_Buffer_ElementType",
            found: format!("element type {}", element.type_),
            expected: "a type that host arrays have".into(),
        })?;
        Ok(Shape::new(dtype, dims))
    }

    /// Element type and dimensions.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Size on the device in bytes, padding included.
    ///
    /// # Errors
    /// If the plugin fails to answer.
    pub fn device_bytes(&self) -> Result<usize> {
        let mut args = PJRT_Buffer_OnDeviceSizeInBytes_Args {
            buffer: self.raw,
            ..new()
        };
        // SAFETY: the buffer is alive.
        unsafe { self.client.api.call(&mut args)? };
        Ok(args.on_device_size_in_bytes)
    }

    fn ready_event(&self) -> Result<Event> {
        let mut args = PJRT_Buffer_ReadyEvent_Args {
            buffer: self.raw,
            ..new()
        };
        // SAFETY: the buffer is alive; the event is ours.
        unsafe {
            self.client.api.call(&mut args)?;
            Ok(Event::from_raw(self.client.api, args.event))
        }
    }

    /// Whether the contents exist, or have failed.
    ///
    /// # Errors
    /// If the plugin fails to answer.
    pub fn ready(&self) -> Result<bool> {
        self.ready_event()?.is_ready()
    }

    /// Blocks until the contents exist.
    ///
    /// # Errors
    /// The error of the transfer or execution.
    pub fn wait(&self) -> Result<()> {
        self.ready_event()?.wait()
    }

    /// Copies the array to the host and waits for it.
    ///
    /// # Errors
    /// The error of the transfer or of the execution.
    pub fn to_literal(&self) -> Result<Literal> {
        self.to_literal_async()?.wait()
    }

    /// Starts copying the array to the host, in C order.
    ///
    /// # Errors
    /// If the plugin refuses to start.
    pub fn to_literal_async(&self) -> Result<PendingLiteral> {
        let mut bytes = vec![0u8; self.shape.bytes()];
        let minor_to_major: Vec<i64> = (0..self.shape.rank() as i64).rev().collect();
        let tiled = PJRT_Buffer_MemoryLayout_Tiled {
            minor_to_major: minor_to_major.as_ptr(),
            minor_to_major_size: minor_to_major.len(),
            ..new()
        };
        let mut layout = PJRT_Buffer_MemoryLayout {
            value: PJRT_Buffer_MemoryLayout_value { tiled },
            type_: PJRT_Buffer_MemoryLayout_Type_Tiled,
            ..new()
        };
        let mut args = PJRT_Buffer_ToHostBuffer_Args {
            src: self.raw,
            host_layout: &mut layout,
            dst: bytes.as_mut_ptr().cast(),
            dst_size: bytes.len(),
            ..new()
        };
        // SAFETY: the layout lives until after the call; the destination has the size given and is owned by the pending
        // literal, which waits for the event before it lets go of it.
        let event = unsafe {
            self.client.api.call(&mut args)?;
            Event::from_raw(self.client.api, args.event)
        };
        Ok(PendingLiteral {
            event: Some(event),
            bytes,
            shape: self.shape.clone(),
            _client: Arc::clone(&self.client),
        })
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({})", self.shape)
    }
}

/// A host array that a transfer is filling.
pub struct PendingLiteral {
    event: Option<Event>,
    bytes: Vec<u8>,
    shape: Shape,
    _client: Arc<ClientInner>,
}

impl PendingLiteral {
    /// Waits for the array.
    ///
    /// # Errors
    /// The error of the transfer or of the execution.
    pub fn wait(mut self) -> Result<Literal> {
        if let Some(event) = self.event.take() {
            event.wait()?;
        }
        let bytes = std::mem::take(&mut self.bytes);
        let found = format!("{} bytes", bytes.len());
        let expected = self.shape.to_string();
        Literal::from_bytes(self.shape.clone(), bytes).ok_or(Error::Unexpected {
            call: "PJRT_Buffer_ToHostBuffer",
            found,
            expected,
        })
    }
}

impl Drop for PendingLiteral {
    fn drop(&mut self) {
        // The plugin may be writing to `bytes` until the event is ready.
        if let Some(event) = self.event.take() {
            let _ = event.wait();
        }
    }
}
