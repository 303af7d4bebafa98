//! Unary gRPC calls over one HTTP/2 connection, and as much of protocol buffers as etcd's messages need.
//!
//! Directly on `h2`, without the layers of a gRPC library: the load generator shares its cores with the store, so a
//! leaner client is to the store's advantage.

use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{self, SendRequest};
use http::{HeaderMap, Method, Request, Uri};
use tokio::net::TcpStream;

use madkv_testkit::measure::Trouble;

/// The largest answer that we take, in bytes.
const ANSWER_MAX_BYTES: usize = 16 << 20;
/// How much a stream, and the connection, may receive before we confirm, in bytes.
const WINDOW_BYTES: u32 = 8 << 20;
/// Before each message: a flag for compression, and the length.
const PREFIX_BYTES: usize = 5;

/// A connection; clones share it.
#[derive(Clone)]
pub(super) struct Channel {
    requests: SendRequest<Bytes>,
}

impl Channel {
    /// Connects; a task on this runtime serves the connection until the last clone is gone.
    pub(super) async fn connect(address: SocketAddr) -> Result<Channel, Trouble> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut builder = client::Builder::new();
        builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES).enable_push(false);
        let (requests, connection) = builder.handshake(stream).await?;
        // Its end shows in the requests' errors.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Channel { requests })
    }

    /// Sends a message, and waits for the one that answers it.
    pub(super) async fn call(&mut self, method: &Uri, message: &BytesMut) -> Result<Bytes, Trouble> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = method.clone();
        let headers = request.headers_mut();
        headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
        headers.insert("te", http::HeaderValue::from_static("trailers"));

        let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
        framed.put_u8(0);
        framed.put_u32(u32::try_from(message.len())?);
        framed.extend_from_slice(message);

        let mut requests = self.requests.clone().ready().await?;
        let (response, mut body) = requests.send_request(request, false)?;
        body.send_data(framed.freeze(), true)?;
        let response = response.await?;
        check(response.headers())?;
        let mut stream = response.into_body();
        let mut answer = BytesMut::new();
        while let Some(data) = stream.data().await {
            let data = data?;
            stream.flow_control().release_capacity(data.len())?;
            if answer.len() + data.len() > ANSWER_MAX_BYTES {
                return Err("an answer beyond all bounds".into());
            }
            answer.extend_from_slice(&data);
        }
        if let Some(trailers) = stream.trailers().await? {
            check(&trailers)?;
        }
        if answer.len() < PREFIX_BYTES || answer[0] != 0 {
            return Err("no answer, or a compressed one".into());
        }
        answer.advance(PREFIX_BYTES);
        Ok(answer.freeze())
    }
}

/// The status may come with the headers or after the body.
fn check(headers: &HeaderMap) -> Result<(), Trouble> {
    match headers.get("grpc-status") {
        Some(status) if status.as_bytes() != b"0" => {
            let text = headers.get("grpc-message").map_or("", |text| text.to_str().unwrap_or(""));
            Err(format!("status {status:?}: {text}").into())
        }
        _ => Ok(()),
    }
}

/// Appends a field of bytes.
pub(super) fn put_bytes(message: &mut BytesMut, field: u64, bytes: &[u8]) {
    put_varint(message, field << 3 | 2);
    put_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

fn put_varint(message: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        message.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    message.put_u8(number as u8);
}

/// A field of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// A number.
    Number(u64),
    /// Bytes, a text or a message.
    Bytes(Bytes),
}

/// The fields of a message, in order.
pub(super) fn fields(mut message: Bytes) -> Result<Vec<(u64, Field)>, Trouble> {
    let mut fields = Vec::new();
    while message.has_remaining() {
        let tag = varint(&mut message)?;
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut message)?),
            1 if message.len() >= 8 => Field::Number(message.get_u64_le()),
            2 => {
                let length = usize::try_from(varint(&mut message)?)?;
                if length > message.len() {
                    return Err("a message that ends too early".into());
                }
                Field::Bytes(message.split_to(length))
            }
            5 if message.len() >= 4 => Field::Number(message.get_u32_le().into()),
            other => return Err(format!("a field of kind {other}").into()),
        };
        fields.push((tag >> 3, field));
    }
    Ok(fields)
}

/// The last field with this number, if it is bytes.
pub(super) fn bytes_of(fields: &[(u64, Field)], number: u64) -> Option<Bytes> {
    fields.iter().rev().find_map(|(found, field)| match field {
        Field::Bytes(bytes) if *found == number => Some(bytes.clone()),
        _ => None,
    })
}

/// The last field with this number, if it is a number; 0, which is not sent, if there is none.
pub(super) fn number_of(fields: &[(u64, Field)], number: u64) -> u64 {
    let found = fields.iter().rev().find_map(|(found, field)| match field {
        Field::Number(value) if *found == number => Some(*value),
        _ => None,
    });
    found.unwrap_or_default()
}

fn varint(message: &mut Bytes) -> Result<u64, Trouble> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        if !message.has_remaining() {
            return Err("a number that ends too early".into());
        }
        let byte = message.get_u8();
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("a number of more than 64 bits".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_written_message_are_what_was_written() {
        let mut message = BytesMut::new();
        put_bytes(&mut message, 1, b"key");
        put_bytes(&mut message, 2, &[7; 300]);
        put_varint(&mut message, 3 << 3);
        put_varint(&mut message, u64::MAX);
        let found = fields(message.freeze()).unwrap();
        assert_eq!(bytes_of(&found, 1).unwrap(), "key");
        assert_eq!(bytes_of(&found, 2).unwrap(), &[7; 300][..]);
        assert_eq!((number_of(&found, 3), number_of(&found, 4)), (u64::MAX, 0));
        assert_eq!(bytes_of(&found, 3), None);
    }

    #[test]
    fn fields_of_every_prefix_are_read_or_refused() {
        let mut message = BytesMut::new();
        put_bytes(&mut message, 1, &[7; 300]);
        let message = message.freeze();
        for length in 1..message.len() {
            assert!(fields(message.slice(..length)).is_err(), "{length}");
        }
    }
}
