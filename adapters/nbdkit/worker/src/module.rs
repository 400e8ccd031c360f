//! The Python module `nbdkit` (reference 4). Its functions may be called from every thread of the process.

use std::time::Duration;

use backstay_core::{Certificate, Peer};
use backstay_nbdkit_host::{control, numbers};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::constants;
use crate::context;
use crate::password;

/// Puts the module among the builtin ones. To be called before Python starts.
pub fn register_module() {
    pyo3::append_to_inittab!(nbdkit);
}

#[pymodule]
#[pyo3(name = "nbdkit")]
fn nbdkit(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.setattr("__doc__", "Module used to access nbdkit server API")?;
    for (name, value) in constants::ALL {
        module.setattr(*name, *value)?;
    }
    for function in [
        wrap_pyfunction!(debug, module)?,
        wrap_pyfunction!(disconnect, module)?,
        wrap_pyfunction!(export_name, module)?,
        wrap_pyfunction!(is_tls, module)?,
        wrap_pyfunction!(nanosleep, module)?,
        wrap_pyfunction!(parse_delay, module)?,
        wrap_pyfunction!(parse_probability, module)?,
        wrap_pyfunction!(parse_size, module)?,
        wrap_pyfunction!(peer_gid, module)?,
        wrap_pyfunction!(peer_pid, module)?,
        wrap_pyfunction!(peer_security_context, module)?,
        wrap_pyfunction!(peer_tls_dn, module)?,
        wrap_pyfunction!(peer_tls_issuer_dn, module)?,
        wrap_pyfunction!(peer_uid, module)?,
        wrap_pyfunction!(read_password, module)?,
        wrap_pyfunction!(set_error, module)?,
        wrap_pyfunction!(shutdown, module)?,
        wrap_pyfunction!(stdio_safe, module)?,
    ] {
        let name = function.getattr("__name__")?;
        module.setattr(name.cast::<PyString>()?, function)?;
    }
    Ok(())
}

/// A `str` that C code could have taken.
fn plain(text: &Bound<'_, PyString>) -> PyResult<String> {
    let text = text.to_str()?;
    if text.contains('\0') {
        return Err(PyValueError::new_err("embedded null character"));
    }
    Ok(text.to_owned())
}

/// A failure that is logged and raised.
fn refused(reason: &str) -> PyErr {
    context::log_error(reason);
    PyValueError::new_err(reason.to_owned())
}

/// Print a debug message when verbose.
#[pyfunction]
#[pyo3(signature = (msg, /))]
fn debug(msg: &Bound<'_, PyString>) -> PyResult<()> {
    context::log_debug(&plain(msg)?);
    Ok(())
}

/// Request disconnection from the current client.
#[pyfunction]
#[pyo3(signature = (force, /))]
fn disconnect(force: &Bound<'_, PyAny>) -> PyResult<()> {
    let force = force.is_truthy()?;
    if let Some(connected) = context::current() {
        connected.client.connection.disconnect(force);
    }
    Ok(())
}

/// Return the name of the export as negotiated with the client.
#[pyfunction]
fn export_name(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let Some(name) = context::export() else {
        context::log_error("nbdkit.export_name: no export is open here");
        return Err(PyRuntimeError::new_err("nbdkit.export_name failed"));
    };
    PyBytes::new(py, &name).call_method1("decode", ("utf-8",))
}

/// Return True if the client completed TLS authentication.
#[pyfunction]
fn is_tls() -> bool {
    context::current().is_some_and(|connected| connected.client.tls)
}

/// Sleep for seconds and nanoseconds.
#[pyfunction]
#[pyo3(signature = (sec, nsec, /))]
fn nanosleep(py: Python<'_>, sec: u32, nsec: u32) {
    let time = Duration::from_secs(sec.into()) + Duration::from_nanos(nsec.into());
    let connected = context::current();
    py.detach(|| match connected {
        // Whether it was the whole time shows in what the callback does next, as in nbdkit.
        Some(connected) => {
            let _ = connected.client.connection.sleep(time);
        }
        None => control::sleep(time),
    });
}

/// Parse delay string into a tuple of seconds and nanoseconds.
#[pyfunction]
#[pyo3(signature = (what, text, /))]
fn parse_delay(what: &Bound<'_, PyString>, text: &Bound<'_, PyString>) -> PyResult<(u32, u32)> {
    numbers::parse_delay(&plain(what)?, &plain(text)?).map_err(|reason| refused(&reason))
}

/// Parse probability string into a floating point number.
#[pyfunction]
#[pyo3(signature = (what, text, /))]
fn parse_probability(what: &Bound<'_, PyString>, text: &Bound<'_, PyString>) -> PyResult<f64> {
    numbers::parse_probability(&plain(what)?, &plain(text)?).map_err(|reason| refused(&reason))
}

/// Parse human-readable size string into bytes.
#[pyfunction]
#[pyo3(signature = (text, /))]
fn parse_size(text: &Bound<'_, PyString>) -> PyResult<i64> {
    numbers::parse_size(&plain(text)?).map_err(|reason| refused(&reason))
}

fn peer(function: &str) -> PyResult<Peer> {
    let peer = context::current().and_then(|connected| connected.client.peer);
    peer.ok_or_else(|| refused(&format!("nbdkit.{function}: known only of a client on a Unix socket")))
}

/// Return the client process ID.
#[pyfunction]
fn peer_pid() -> PyResult<i32> {
    peer("peer_pid").map(|peer| peer.process)
}

/// Return the client user ID.
#[pyfunction]
fn peer_uid() -> PyResult<u32> {
    peer("peer_uid").map(|peer| peer.user)
}

/// Return the client group ID.
#[pyfunction]
fn peer_gid() -> PyResult<u32> {
    peer("peer_gid").map(|peer| peer.group)
}

/// Return the client security context.
#[pyfunction]
fn peer_security_context() -> PyResult<String> {
    let context = context::current().and_then(|connected| connected.client.security_context.clone());
    context.ok_or_else(|| refused("nbdkit.peer_security_context: the security context of this client is not known"))
}

/// A name of the client's certificate; empty: it has shown none.
fn tls_name(function: &str, name: fn(Certificate) -> String) -> PyResult<String> {
    let connected = context::current();
    let connected = connected.ok_or_else(|| refused(&format!("nbdkit.{function}: there is no client here")))?;
    Ok(connected.client.certificate.clone().map(name).unwrap_or_default())
}

/// Return the client TLS X.509 Distinguished Name.
#[pyfunction]
fn peer_tls_dn() -> PyResult<String> {
    tls_name("peer_tls_dn", |certificate| certificate.subject)
}

/// Return the client TLS X.509 issuer's Distinguished Name.
#[pyfunction]
fn peer_tls_issuer_dn() -> PyResult<String> {
    tls_name("peer_tls_issuer_dn", |certificate| certificate.issuer)
}

/// Read a password from the terminal, a descriptor, a file or the text itself.
#[pyfunction]
#[pyo3(signature = (value, /))]
fn read_password<'py>(py: Python<'py>, value: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyBytes>> {
    let value = plain(value)?;
    let password = py.detach(|| password::read(&value)).map_err(|reason| refused(&reason))?;
    Ok(PyBytes::new(py, &password))
}

/// Store an errno value prior to throwing an exception.
#[pyfunction]
#[pyo3(signature = (err, /))]
fn set_error(err: i32) {
    context::set_error(err);
}

/// Request asynchronous shutdown.
#[pyfunction]
fn shutdown() {
    control::shutdown();
}

/// Return True if it is safe to interact with stdin and stdout.
#[pyfunction]
fn stdio_safe() -> bool {
    control::stdio_safe()
}
