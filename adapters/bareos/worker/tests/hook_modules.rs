//! `import bareossd` and `import bareosdir` without a job (reference 7.1 to 7.3, conformance 18).

use std::ffi::CString;

use pyo3::prelude::*;

/// Runs the functions `test_*` of a Python file; each is one behaviour.
#[test]
fn every_behaviour_of_the_two_modules_without_a_job_holds() {
    backstay_bareos_worker::hook::register_modules();
    backstay_python_runtime::start(&backstay_python_runtime::interpreter_path(None)).unwrap();
    let code = CString::new(include_str!("hook_modules.py")).unwrap();
    let (count, failures) = Python::attach(|py| {
        let module = PyModule::from_code(py, &code, c"hook_modules.py", c"hook_module_tests").unwrap();
        let mut count = 0;
        let mut failures = Vec::new();
        for item in module.dict().items() {
            let (name, function): (String, Bound<'_, PyAny>) = item.extract().unwrap();
            if name.starts_with("test_") {
                count += 1;
                if let Err(error) = function.call0() {
                    failures.push(format!("{name}\n{}", backstay_python_runtime::format_error(py, &error)));
                }
            }
        }
        (count, failures)
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(count >= 7, "only {count} tests ran");
}
