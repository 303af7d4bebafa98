//! The flag that turns it on.

use std::net::SocketAddr;

use crate::args::{self, BadArgument};

/// Where a process shows what it does.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct HttpFlags {
    /// Where to answer HTTP: /metrics, /livez, /readyz, /status; nowhere unless given. Whoever reaches this address
    /// can read all of that.
    #[arg(long = "http_listen", value_name = "ADDR")]
    pub http_listen: Option<String>,
}

impl HttpFlags {
    /// The address, if one is given. `others` are the process's other listeners, with their flags.
    ///
    /// # Errors
    /// If it is none, or another listener's.
    pub fn check(&self, others: &[(&str, SocketAddr)]) -> Result<Option<SocketAddr>, BadArgument> {
        let Some(text) = &self.http_listen else { return Ok(None) };
        let address = args::listen_address("--http_listen", text)?;
        others.iter().try_for_each(|other| args::distinct(*other, ("--http_listen", address)))?;
        Ok(Some(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers B9
    #[test]
    fn http_listen_that_is_no_address_or_another_ones_is_refused() {
        let check = |text: &str| {
            let api = ("--api_listen", "127.0.0.1:3777".parse().unwrap());
            HttpFlags { http_listen: Some(text.to_owned()) }.check(&[api]).map_err(|error| error.to_string())
        };
        assert_eq!(check("127.0.0.1:0"), Ok(Some("127.0.0.1:0".parse().unwrap())));
        assert_eq!(HttpFlags::default().check(&[]).unwrap(), None);
        for wrong in ["", "9100", "localhost:9100", "127.0.0.1", "127.0.0.1:99999"] {
            assert!(check(wrong).unwrap_err().contains("--http_listen"), "{wrong}");
        }
        assert!(check("0.0.0.0:3777").unwrap_err().contains("both"));
    }
}
