//! TLS towards an NBD server: its certificate must be good for the host in the URI.
//!
//! The authorities are those of `ca-cert.pem` in the folder that the URI names, or the system's. rustls has no pre-shared
//! keys, so those are not offered. Dates count here: the server is somebody else's, and its certificate ends when it says.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring, version};

use super::address::{Address, Place};
use super::fault::{Outcome, unusable};
use super::wire::{Timed, Wire};

/// Where distributions keep the authorities that they trust.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What is needed to speak TLS with one server.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Reads certificates and keys. The error is a sentence.
    pub(super) fn new(address: &Address) -> Result<Self, String> {
        let host = match &address.place {
            Place::Tcp(host, _) => host.clone(),
            Place::Unix(_) => "localhost".to_owned(),
        };
        let name = ServerName::try_from(host).map_err(|error| format!("the host's name: {error}"))?;
        let authorities = match &address.certificates {
            Some(folder) => folder.join("ca-cert.pem"),
            None => bundle()?,
        };
        let mut roots = RootCertStore::empty();
        let (good, _) = roots.add_parsable_certificates(certificates(&authorities)?);
        if good == 0 {
            return Err(format!("{} holds no certificate of an authority", authorities.display()));
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let own = address.certificates.as_deref().map(own_certificate).transpose()?.flatten();
        let config = match own {
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("client-key.pem: {error}"))?,
            None => builder.with_no_client_auth(),
        };
        Ok(Self { config: Arc::new(config), name })
    }

    /// Shakes hands within the deadline of `timed`.
    pub(super) fn start(&self, timed: Timed) -> Outcome<Wire> {
        let connection = ClientConnection::new(Arc::clone(&self.config), self.name.clone());
        let Ok(connection) = connection else { return unusable("TLS cannot be started") };
        let mut tls = StreamOwned::new(connection, timed);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(Wire::Tls(Box::new(tls)))
    }
}

fn bundle() -> Result<PathBuf, String> {
    let found = BUNDLES.iter().map(Path::new).find(|path| path.is_file());
    found.map(Path::to_owned).ok_or_else(|| {
        "this system has no bundle of authorities: add ?tls-certificates=DIR with DIR/ca-cert.pem".to_owned()
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    all.map_err(|error| format!("reading {}: {error}", path.display()))
}

/// The client's certificate, if the folder has one.
type Own = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn own_certificate(folder: &Path) -> Result<Option<Own>, String> {
    let (chain, key) = (folder.join("client-cert.pem"), folder.join("client-key.pem"));
    if !chain.exists() {
        return Ok(None);
    }
    let read = PrivateKeyDer::from_pem_file(&key).map_err(|e| format!("reading {}: {e}", key.display()))?;
    Ok(Some((certificates(&chain)?, read)))
}
