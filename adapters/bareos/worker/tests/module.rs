//! `import bareosfd` without a job: what a plugin's own unit tests see (reference 2). The functions of `module.py` that
//! belong to a line of the conformance checklist are run by that list's tests.

use std::ffi::CString;

use pyo3::prelude::*;

/// Runs the functions `test_*` of a Python file; each is one behaviour.
#[test]
fn every_behaviour_of_the_module_without_a_job_holds() {
    backstay_bareos_worker::register_module();
    backstay_python_runtime::start(&backstay_python_runtime::interpreter_path(None)).unwrap();
    let code = CString::new(include_str!("module.py")).unwrap();
    let (count, failures) = Python::attach(|py| {
        let module = PyModule::from_code(py, &code, c"module.py", c"module_tests").unwrap();
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
    assert!(count >= 12, "only {count} tests ran");
}
