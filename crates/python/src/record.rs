//! Python classes whose attributes are C members: the exact behaviour of `PyMemberDef` (truncation with a warning,
//! strict bools, deletion rules, no instance dictionary) comes from CPython itself.
//!
//! A class is a leaked static type: only those have a `__name__` without a module and `builtins` as `__module__`. Each
//! attribute lives in a slot of eight bytes behind the object's head.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

/// What a slot holds, and so how CPython reads and writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `unsigned short`.
    U16,
    /// `int`.
    I32,
    /// `unsigned int`.
    U32,
    /// `long long`.
    I64,
    /// `unsigned long long`.
    U64,
    /// `char`, strictly `True` or `False`.
    Bool,
    /// A `str` or `None` that scripts can read only.
    Text,
    /// Any object; `None` when unset.
    Object,
}

/// One attribute.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static CStr,
    /// What it holds.
    pub kind: Kind,
}

/// A class: what [`RecordType::new`] makes it of.
#[derive(Debug)]
pub struct RecordSpec {
    /// `__name__`.
    pub name: &'static CStr,
    /// The attributes. Their positions are how Rust code addresses them.
    pub fields: &'static [Field],
    /// Positions of the attributes that the constructor takes without a keyword, in order. Every attribute is
    /// accepted as a keyword.
    pub positional: &'static [usize],
    /// What is cut off an attribute's name to form its keyword.
    pub keyword_prefix: &'static str,
    /// The constructor cuts integers that are too large instead of refusing them.
    pub mask: bool,
    /// Sets the values of a new object; every slot is zero or unset before.
    pub defaults: fn(&Record<'_>),
    /// `repr()`.
    pub repr: fn(&Record<'_>) -> PyResult<String>,
}

/// A class that exists. Never freed.
#[repr(C)]
pub struct RecordType {
    // First, so that a pointer to the type object is a pointer to this.
    type_object: ffi::PyTypeObject,
    spec: &'static RecordSpec,
}

// SAFETY: the type object belongs to CPython and is touched only with the interpreter attached; the rest is immutable.
unsafe impl Sync for RecordType {}
// SAFETY: as above.
unsafe impl Send for RecordType {}

impl std::fmt::Debug for RecordType {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("RecordType").field(&self.spec.name).finish()
    }
}

const HEAD: usize = size_of::<ffi::PyObject>();
const SLOT: usize = size_of::<u64>();

const fn offset(field: usize) -> usize {
    HEAD + SLOT * field
}

impl RecordType {
    /// Makes the class. It lives as long as the process.
    ///
    /// # Errors
    /// What `PyType_Ready` raises.
    pub fn new(py: Python<'_>, spec: &'static RecordSpec) -> PyResult<&'static Self> {
        let mut members = Vec::new();
        let mut properties = Vec::new();
        for (position, field) in spec.fields.iter().enumerate() {
            let type_code = match field.kind {
                Kind::U16 => ffi::Py_T_USHORT,
                Kind::I32 => ffi::Py_T_INT,
                Kind::U32 => ffi::Py_T_UINT,
                Kind::I64 => ffi::Py_T_LONGLONG,
                Kind::U64 => ffi::Py_T_ULONGLONG,
                Kind::Bool => ffi::Py_T_BOOL,
                #[allow(deprecated)]
                Kind::Object => ffi::_Py_T_OBJECT,
                Kind::Text => {
                    properties.push(ffi::PyGetSetDef {
                        name: field.name.as_ptr(),
                        get: Some(get_text),
                        set: Some(refuse_text),
                        doc: ptr::null(),
                        closure: ptr::without_provenance_mut::<c_void>(offset(position)),
                    });
                    continue;
                }
            };
            members.push(ffi::PyMemberDef {
                name: field.name.as_ptr(),
                type_code,
                offset: offset(position).cast_signed(),
                flags: 0,
                doc: ptr::null(),
            });
        }
        members.push(ffi::PyMemberDef::default());
        properties.push(ffi::PyGetSetDef::default());

        // SAFETY: a zeroed PyTypeObject is what a C program's static initialiser starts from; the fields set below are
        // those that PyType_Ready asks for. The type and its tables are leaked, so their pointers stay valid.
        let this = unsafe {
            let mut type_object: ffi::PyTypeObject = std::mem::zeroed();
            type_object.ob_base.ob_base = ffi::PyObject_HEAD_INIT;
            type_object.tp_name = spec.name.as_ptr();
            type_object.tp_basicsize = offset(spec.fields.len()).cast_signed();
            type_object.tp_flags = ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE;
            type_object.tp_new = Some(tp_new);
            type_object.tp_init = Some(tp_init);
            type_object.tp_dealloc = Some(tp_dealloc);
            type_object.tp_repr = Some(tp_repr);
            type_object.tp_members = Box::leak(members.into_boxed_slice()).as_mut_ptr();
            type_object.tp_getset = Box::leak(properties.into_boxed_slice()).as_mut_ptr();
            Box::into_raw(Box::new(Self { type_object, spec }))
        };
        // SAFETY: `this` was just leaked and is not shared yet; the interpreter is attached.
        unsafe {
            if ffi::PyType_Ready(&raw mut (*this).type_object) != 0 {
                return Err(PyErr::fetch(py));
            }
            Ok(&*this)
        }
    }

    fn type_pointer(&self) -> *mut ffi::PyTypeObject {
        (&raw const self.type_object).cast_mut()
    }

    /// The class as a Python object.
    #[must_use]
    pub fn class<'py>(&'static self, py: Python<'py>) -> Bound<'py, PyAny> {
        // SAFETY: the type is ready, never freed, and the interpreter is attached.
        unsafe { Bound::from_borrowed_ptr(py, self.type_pointer().cast()) }
    }

    /// A new object with the default values.
    ///
    /// # Errors
    /// `MemoryError`.
    pub fn make<'py>(&'static self, py: Python<'py>) -> PyResult<Record<'py>> {
        // SAFETY: the type is ready; `allocate` returns a new reference or null with an exception set.
        let object = unsafe { Bound::from_owned_ptr_or_err(py, allocate(self.type_pointer()))? };
        let record = Record { object, class: self };
        (self.spec.defaults)(&record);
        Ok(record)
    }

    /// The object as a record of this class, or `None` if it is something else. Objects of a subclass count.
    #[must_use]
    pub fn cast<'py>(&'static self, object: &Bound<'py, PyAny>) -> Option<Record<'py>> {
        // SAFETY: both pointers are live objects.
        let is_instance = unsafe { ffi::PyObject_TypeCheck(object.as_ptr(), self.type_pointer()) } != 0;
        is_instance.then(|| Record { object: object.clone(), class: self })
    }
}

/// An object of such a class.
#[derive(Clone, Debug)]
pub struct Record<'py> {
    object: Bound<'py, PyAny>,
    class: &'static RecordType,
}

impl<'py> Record<'py> {
    /// The Python object.
    #[must_use]
    pub fn as_any(&self) -> &Bound<'py, PyAny> {
        &self.object
    }

    /// The interpreter.
    #[must_use]
    pub fn py(&self) -> Python<'py> {
        self.object.py()
    }

    /// What attributes it has.
    #[must_use]
    pub fn fields(&self) -> &'static [Field] {
        self.class.spec.fields
    }

    fn kind(&self, field: usize) -> Kind {
        self.class.spec.fields[field].kind
    }

    fn slot(&self, field: usize) -> *mut u8 {
        assert!(field < self.class.spec.fields.len(), "no such field");
        // SAFETY: objects of this class are `offset(fields.len())` bytes long, and `field` is one of them.
        unsafe { self.object.as_ptr().cast::<u8>().add(offset(field)) }
    }

    /// An integer or bool attribute. `U64` values above `i64::MAX` come as their two's complement; see
    /// [`Record::unsigned`].
    #[must_use]
    pub fn integer(&self, field: usize) -> i64 {
        let slot = self.slot(field);
        // SAFETY: `slot` points to eight aligned bytes inside the object, and CPython writes them as the member's C
        // type. The interpreter is attached, so nobody else writes now.
        unsafe {
            match self.kind(field) {
                Kind::U16 => i64::from(*slot.cast::<u16>()),
                Kind::I32 => i64::from(*slot.cast::<i32>()),
                Kind::U32 => i64::from(*slot.cast::<u32>()),
                Kind::I64 => *slot.cast::<i64>(),
                Kind::U64 => (*slot.cast::<u64>()).cast_signed(),
                Kind::Bool => i64::from(*slot),
                Kind::Text | Kind::Object => 0,
            }
        }
    }

    /// A `U64` attribute.
    #[must_use]
    pub fn unsigned(&self, field: usize) -> u64 {
        self.integer(field).cast_unsigned()
    }

    /// A bool attribute.
    #[must_use]
    pub fn flag(&self, field: usize) -> bool {
        self.integer(field) != 0
    }

    /// Sets an integer or bool attribute; what does not fit its C type is cut.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn set_integer(&self, field: usize, value: i64) {
        let slot = self.slot(field);
        // SAFETY: as in `integer`.
        unsafe {
            match self.kind(field) {
                Kind::U16 => *slot.cast::<u16>() = value as u16,
                Kind::I32 => *slot.cast::<i32>() = value as i32,
                Kind::U32 => *slot.cast::<u32>() = value as u32,
                Kind::I64 => *slot.cast::<i64>() = value,
                Kind::U64 => *slot.cast::<u64>() = value.cast_unsigned(),
                Kind::Bool => *slot = u8::from(value != 0),
                Kind::Text | Kind::Object => {}
            }
        }
    }

    /// An object or text attribute, `None` when it was never set or was deleted.
    #[must_use]
    pub fn object(&self, field: usize) -> Option<Bound<'py, PyAny>> {
        if !matches!(self.kind(field), Kind::Text | Kind::Object) {
            return None;
        }
        // SAFETY: such a slot holds null or a reference that the object owns.
        unsafe { Bound::from_borrowed_ptr_or_opt(self.py(), *self.slot(field).cast::<*mut ffi::PyObject>()) }
    }

    /// An object or text attribute as scripts see it: unset and Python's `None` are both `None`.
    #[must_use]
    pub fn value(&self, field: usize) -> Option<Bound<'py, PyAny>> {
        self.object(field).filter(|object| !object.is_none())
    }

    /// Sets an object or text attribute.
    pub fn set_object(&self, field: usize, value: Option<Bound<'py, PyAny>>) {
        if !matches!(self.kind(field), Kind::Text | Kind::Object) {
            return;
        }
        let new = value.map_or(ptr::null_mut(), Bound::into_ptr);
        // SAFETY: the slot owns its reference: the new one is stored before the old one is released, since releasing
        // may run Python code that looks at this object.
        unsafe {
            let slot = self.slot(field).cast::<*mut ffi::PyObject>();
            let old = std::mem::replace(&mut *slot, new);
            ffi::Py_XDECREF(old);
        }
    }

    /// Sets an object or text attribute to a `str`.
    pub fn set_text(&self, field: usize, text: &str) {
        self.set_object(field, Some(PyString::new(self.py(), text).into_any()));
    }
}

/// The record class of a type, which may be a Python subclass of one.
///
/// # Safety
/// `type_object` is a record class or inherits from one; the interpreter is attached.
unsafe fn class_of(mut type_object: *mut ffi::PyTypeObject) -> *const RecordType {
    // SAFETY: only record classes use `tp_dealloc` of this module (a heap subclass has CPython's own), and one is in the
    // chain by contract; the type object is the first member of its RecordType.
    unsafe {
        while (*type_object).tp_dealloc.is_none_or(|function| function as usize != tp_dealloc as *const () as usize) {
            type_object = (*type_object).tp_base;
        }
    }
    type_object.cast()
}

/// # Safety
/// `type_object` is ready; the interpreter is attached.
unsafe fn allocate(type_object: *mut ffi::PyTypeObject) -> *mut ffi::PyObject {
    // SAFETY: PyType_Ready set tp_alloc; it returns zeroed memory.
    unsafe { ffi::PyType_GenericAlloc(type_object, 0) }
}

unsafe extern "C" fn tp_new(
    type_object: *mut ffi::PyTypeObject,
    _arguments: *mut ffi::PyObject,
    _keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls this attached, with a type that is or inherits from a record class.
    unsafe {
        let object = allocate(type_object);
        if !object.is_null() {
            let class: &'static RecordType = &*class_of(type_object);
            Python::attach(|py| {
                let record = Record { object: Bound::from_borrowed_ptr(py, object), class };
                (class.spec.defaults)(&record);
            });
        }
        object
    }
}

unsafe extern "C" fn tp_init(
    object: *mut ffi::PyObject,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> c_int {
    Python::attach(|py| {
        // SAFETY: CPython calls this with an object of a record class, a tuple, and a dict or null.
        let (record, arguments, keywords) = unsafe {
            let class: &'static RecordType = &*class_of(ffi::Py_TYPE(object));
            (
                Record { object: Bound::from_borrowed_ptr(py, object), class },
                Bound::from_borrowed_ptr(py, arguments).cast_into_unchecked::<PyTuple>(),
                Bound::from_borrowed_ptr_or_opt(py, keywords).map(|dict| dict.cast_into_unchecked::<PyDict>()),
            )
        };
        match construct(&record, &arguments, keywords.as_ref()) {
            Ok(()) => 0,
            Err(error) => {
                error.restore(py);
                -1
            }
        }
    })
}

fn construct(
    record: &Record<'_>,
    arguments: &Bound<'_, PyTuple>,
    keywords: Option<&Bound<'_, PyDict>>,
) -> PyResult<()> {
    let spec = record.class.spec;
    let class_name = spec.name.to_string_lossy();
    if arguments.len() > spec.positional.len() {
        return Err(PyTypeError::new_err(format!(
            "{class_name}() takes at most {} arguments ({} given)",
            spec.positional.len(),
            arguments.len()
        )));
    }
    for (value, &field) in arguments.iter().zip(spec.positional) {
        assign(record, field, &value)?;
    }
    for (keyword, value) in keywords.into_iter().flatten() {
        let keyword = keyword.str()?;
        let keyword = keyword.to_string_lossy();
        let found = spec.fields.iter().position(|field| {
            let name = field.name.to_str().unwrap_or_default();
            name.strip_prefix(spec.keyword_prefix).unwrap_or(name) == keyword
        });
        let Some(field) = found else {
            return Err(PyTypeError::new_err(format!("'{keyword}' is an invalid keyword argument for {class_name}()")));
        };
        if spec.positional.iter().position(|&other| other == field).is_some_and(|place| place < arguments.len()) {
            return Err(PyTypeError::new_err(format!(
                "argument for {class_name}() given by name ('{keyword}') and position"
            )));
        }
        assign(record, field, &value)?;
    }
    Ok(())
}

#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
fn assign(record: &Record<'_>, field: usize, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let kind = record.kind(field);
    match kind {
        Kind::Object => record.set_object(field, Some(value.clone())),
        Kind::Text => {
            if !value.is_none() {
                value.cast::<PyString>().map_err(|_| {
                    let class = value.get_type();
                    PyTypeError::new_err(match class.name() {
                        Ok(name) => format!("argument must be str or None, not {name}"),
                        Err(_) => "argument must be str or None".to_owned(),
                    })
                })?;
            }
            record.set_object(field, Some(value.clone()));
        }
        Kind::Bool => record.set_integer(field, i64::from(value.is_truthy()?)),
        Kind::U16 | Kind::I32 | Kind::U32 | Kind::I64 | Kind::U64 => {
            if record.class.spec.mask {
                record.set_integer(field, masked(value)?);
                return Ok(());
            }
            let number: i128 = value.extract()?;
            let (low, high): (i128, i128) = match kind {
                Kind::U16 => (0, i128::from(u16::MAX)),
                Kind::I32 => (i128::from(i32::MIN), i128::from(i32::MAX)),
                Kind::U32 => (0, i128::from(u32::MAX)),
                Kind::U64 => (0, i128::from(u64::MAX)),
                _ => (i128::from(i64::MIN), i128::from(i64::MAX)),
            };
            if number < low || number > high {
                return Err(PyOverflowError::new_err(if number > high {
                    "integer is greater than maximum"
                } else {
                    "integer is less than minimum"
                }));
            }
            record.set_integer(field, number as i64);
        }
    }
    Ok(())
}

/// The low 64 bits of any integer object.
fn masked(value: &Bound<'_, PyAny>) -> PyResult<i64> {
    // SAFETY: both calls take and return live objects with the interpreter attached; PyNumber_Index returns a new
    // reference to an int or null with an exception set.
    unsafe {
        let number = Bound::from_owned_ptr_or_err(value.py(), ffi::PyNumber_Index(value.as_ptr()))?;
        let bits = ffi::PyLong_AsUnsignedLongLongMask(number.as_ptr());
        if bits == u64::MAX
            && let Some(error) = PyErr::take(value.py())
        {
            return Err(error);
        }
        Ok(bits.cast_signed())
    }
}

unsafe extern "C" fn tp_repr(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    Python::attach(|py| {
        // SAFETY: CPython calls this with an object of a record class.
        let record = unsafe {
            let class: &'static RecordType = &*class_of(ffi::Py_TYPE(object));
            Record { object: Bound::from_borrowed_ptr(py, object), class }
        };
        match (record.class.spec.repr)(&record) {
            Ok(text) => PyString::new(py, &text).into_ptr(),
            Err(error) => {
                error.restore(py);
                ptr::null_mut()
            }
        }
    })
}

unsafe extern "C" fn tp_dealloc(object: *mut ffi::PyObject) {
    // SAFETY: CPython calls this attached, once, with an object of a record class (or of a subclass, from its own
    // deallocator, which expects that `tp_free` of the object's type is called). The slots own their references.
    unsafe {
        let type_object = ffi::Py_TYPE(object);
        let class = &*class_of(type_object);
        for (position, field) in class.spec.fields.iter().enumerate() {
            if matches!(field.kind, Kind::Text | Kind::Object) {
                let slot = object.cast::<u8>().add(offset(position)).cast::<*mut ffi::PyObject>();
                ffi::Py_XDECREF(std::mem::replace(&mut *slot, ptr::null_mut()));
            }
        }
        if let Some(free) = (*type_object).tp_free {
            free(object.cast());
        }
    }
}

unsafe extern "C" fn get_text(object: *mut ffi::PyObject, closure: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: the descriptor checked the object's class; `closure` is the offset of a text slot.
    unsafe {
        let text = *object.cast::<u8>().add(closure.addr()).cast::<*mut ffi::PyObject>();
        ffi::Py_NewRef(if text.is_null() { ffi::Py_None() } else { text })
    }
}

unsafe extern "C" fn refuse_text(
    _object: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    _closure: *mut c_void,
) -> c_int {
    // The texts and the class are those of a C string member.
    let text: *const c_char =
        if value.is_null() { c"can't delete numeric/char attribute".as_ptr() } else { c"readonly attribute".as_ptr() };
    // SAFETY: CPython calls setters attached; the text is static.
    unsafe { ffi::PyErr_SetString(ffi::PyExc_TypeError, text) };
    -1
}
