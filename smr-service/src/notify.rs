//! Tells a service manager how the process is, if one wants to know: systemd, with `Type=notify`.
//!
//! It says where in `NOTIFY_SOCKET`. One datagram for each word; no one waits for it, and a word that does not arrive
//! changes nothing here.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where the service manager listens.
const SOCKET: &str = "NOTIFY_SOCKET";

/// The process has what it needs of this host: its ports, its directory. It may wait for others yet, and a boot must
/// not wait for these; whether it serves is known from elsewhere (`/readyz`).
pub fn ready() {
    tell("READY=1");
}

/// What the process is at, in one line.
pub fn status(what: &str) {
    tell(&format!("STATUS={}", what.replace('\n', " ")));
}

/// The process has begun to end.
pub fn stopping() {
    tell("STOPPING=1");
}

fn tell(word: &str) {
    let Some(socket) = env::var_os(SOCKET) else { return };
    if let Err(error) = send(&socket, word) {
        tracing::warn!(%error, ?socket, "the service manager cannot be told {word}");
    }
}

fn send(socket: &OsStr, word: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        // A name without a file.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(word.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn heard(listener: &UnixDatagram) -> String {
        listener.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut bytes = [0; 64];
        let len = listener.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }

    #[test]
    fn send_to_a_file_and_to_a_name_arrives_whole() {
        let path = env::temp_dir().join(format!("smr-notify-{}", std::process::id()));
        let listener = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        assert_eq!(heard(&listener), "READY=1");
        std::fs::remove_file(&path).unwrap();

        let name = format!("smr-notify-{}", std::process::id());
        let listener = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(OsStr::new(&format!("@{name}")), "STOPPING=1").unwrap();
        assert_eq!(heard(&listener), "STOPPING=1");
    }

    #[test]
    fn send_where_no_one_listens_is_an_error_and_nothing_else() {
        assert!(send(OsStr::new("/nonexistent/socket"), "READY=1").is_err());
        assert!(send(OsStr::new(""), "READY=1").is_err());
    }
}
