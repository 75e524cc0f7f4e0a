//! Loading modules and asking for their functions and variables.

use std::{collections::BTreeMap, ffi::CString, sync::Arc};

use crate::{
    driver::{
        error::{Code, Status},
        limits,
        settings::Settings,
        state::{Function, Id, Module, State},
    },
    exec::{LoadedModule, ModuleSymbol},
    profile::Profile,
};

/// What a module image is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Image {
    Text,
    FatBinary,
    Elf,
}

impl Image {
    /// Tells by the first four bytes.
    pub(crate) fn of(start: [u8; 4]) -> Self {
        match start {
            [0x7f, b'E', b'L', b'F'] => Image::Elf,
            // A fat binary and the wrapper that nvcc puts around it.
            [0x50, 0xed, 0x55, 0xba] | [0xb1, 0x43, 0x62, 0x46] => Image::FatBinary,
            _ => Image::Text,
        }
    }
}

/// Newest PTX version, major × 10 + minor, that a driver of that version compiles.
fn newest_ptx(driver: u32) -> u32 {
    match (driver / 1000, driver % 1000 / 10) {
        (11, minor) => 70 + minor,
        (12, minor @ 0..=5) => 80 + minor,
        (12, minor) => 79 + minor,
        (major, minor) => (major - 4) * 10 + minor,
    }
}

/// Checks `.version` and `.target` against driver and device; the version.
fn check_header(text: &str, settings: &Settings) -> Result<u32, (Code, String)> {
    let directive = |name: &str| {
        text.lines().find_map(|line| line.trim_start().strip_prefix(name)).map(str::trim)
    };
    let version = directive(".version ").and_then(|value| {
        let (major, minor) = value.split_once('.')?;
        let minor: u32 = minor.get(..1)?.parse().ok()?;
        Some(major.parse::<u32>().ok()? * 10 + minor)
    });
    let Some(version) = version else {
        return Err((Code::INVALID_PTX, "no .version directive".into()));
    };
    let newest = newest_ptx(settings.driver);
    if version > newest {
        let message = format!(
            "PTX version {}.{} is newer than {}.{}, the newest of driver {}.{}",
            version / 10,
            version % 10,
            newest / 10,
            newest % 10,
            settings.driver / 1000,
            settings.driver % 1000 / 10
        );
        return Err((Code::UNSUPPORTED_PTX_VERSION, message));
    }
    let target = directive(".target ").unwrap_or_default();
    let target = target.split([',', ' ', '/']).next().unwrap_or_default();
    let digits = target.strip_prefix("sm_").unwrap_or_default();
    let number = digits.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let Ok(capability) = number.parse::<u32>() else {
        return Err((Code::INVALID_PTX, format!("no target in `.target {target}`")));
    };
    let (major, minor) = settings.profile.compute_capability;
    let device = major * 10 + minor;
    let specific = number.len() < digits.len();
    if capability > device || specific && capability != device {
        let message = format!("target {target} cannot be compiled for sm_{device}");
        return Err((Code::INVALID_PTX, message));
    }
    Ok(version)
}

impl State {
    /// `cuModuleLoadData` for PTX text; the message tells why not.
    pub(crate) fn load_module(&mut self, text: &str) -> Result<Id, (Code, String)> {
        let context = self.context().map_err(|code| (code, String::new()))?;
        let version = check_header(text, &self.settings)?;
        let loaded = LoadedModule::load(text, &mut self.memory)
            .map_err(|error| (Code::INVALID_PTX, error.to_string()))?;
        for warning in &loaded.warnings {
            self.journal.warn(warning.clone());
        }
        let id = self.fresh();
        let functions = BTreeMap::new();
        Ok(self.modules.insert(id, Module { context, loaded, version, functions }))
    }

    /// The same, with the message on standard error.
    pub(crate) fn load_module_aloud(&mut self, text: &str) -> Status<Id> {
        self.load_module(text).map_err(|(code, message)| {
            eprintln!("cuda-emulator: cannot load the module: {message}");
            code
        })
    }

    fn module(&self, id: Id) -> Status<&Module> {
        let context = self.context()?;
        self.modules.get(id).and_then(|module| {
            if module.context == context { Ok(module) } else { Err(Code::INVALID_HANDLE) }
        })
    }

    /// `cuModuleUnload`. Queued kernels of the module still run first.
    pub(crate) fn unload_module(&mut self, id: Id) -> Status {
        self.module(id)?;
        self.drain();
        let module = self.modules.remove(id)?;
        for symbol in module.loaded.symbols.values() {
            self.hazards.forget(symbol.address);
        }
        module.loaded.unload(&mut self.memory);
        self.functions.retain(|function| function.module != id);
        Ok(())
    }

    /// `cuModuleGetFunction`.
    pub(crate) fn module_function(&mut self, id: Id, name: &str) -> Status<Id> {
        let module = self.module(id)?;
        if let Some(function) = module.functions.get(name) {
            return Ok(*function);
        }
        let context = module.context;
        let kernel = Arc::clone(module.loaded.kernels.get(name).ok_or(Code::NOT_FOUND)?);
        let c_name = CString::new(name).map_err(|_| Code::NOT_FOUND)?;
        let function = self.fresh();
        self.functions.insert(
            function,
            Function {
                context,
                module: id,
                kernel,
                max_dynamic_shared: None,
                carveout: -1,
                c_name,
            },
        );
        self.modules.get_mut(id)?.functions.insert(name.to_owned(), function);
        Ok(function)
    }

    /// `cuModuleGetGlobal`.
    pub(crate) fn module_global(&self, id: Id, name: &str) -> Status<ModuleSymbol> {
        self.module(id)?.loaded.symbols.get(name).copied().ok_or(Code::NOT_FOUND)
    }

    /// A function of the current context.
    pub(crate) fn function(&self, id: Id) -> Status<&Function> {
        let context = self.context()?;
        self.functions.get(id).and_then(|function| {
            if function.context == context { Ok(function) } else { Err(Code::INVALID_HANDLE) }
        })
    }

    /// `cuFuncGetAttribute`.
    pub(crate) fn function_attribute(&self, attribute: u32, id: Id) -> Status<i32> {
        let function = self.function(id)?;
        let profile = self.settings.profile;
        let kernel = &function.kernel;
        let needs = limits::Needs::from(&**kernel);
        let (major, minor) = profile.compute_capability;
        Ok(match attribute {
            0 => limits::max_threads(&needs, profile) as i32,
            1 => kernel.static_shared as i32,
            3 => kernel.local_bytes as i32,
            4 => limits::registers(&needs, profile) as i32,
            5 => self.modules.get(function.module)?.version as i32,
            6 => (major * 10 + minor) as i32,
            8 => function
                .max_dynamic_shared
                .unwrap_or_else(|| limits::default_dynamic_shared(&needs)) as i32,
            9 => function.carveout,
            // Constant memory, cache mode, clusters: none.
            2 | 7 | 10..=15 => 0,
            _ => return Err(Code::INVALID_VALUE),
        })
    }

    /// `cuFuncSetAttribute`.
    pub(crate) fn set_function_attribute(&mut self, id: Id, attribute: u32, value: i32) -> Status {
        let most: &Profile = self.settings.profile;
        let most = most.shared_per_block_optin as usize;
        let static_shared = self.function(id)?.kernel.static_shared;
        let function = self.functions.get_mut(id)?;
        match attribute {
            8 => {
                let bytes = u32::try_from(value).map_err(|_| Code::INVALID_VALUE)?;
                if bytes as usize + static_shared > most {
                    return Err(Code::INVALID_VALUE);
                }
                function.max_dynamic_shared = Some(bytes);
            }
            9 if (-1..=100).contains(&value) => function.carveout = value,
            _ => return Err(Code::INVALID_VALUE),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_held_to_driver_and_device() {
        for (header, driver, profile, expected) in [
            (".version 8.0\n.target sm_80\n", 12_000, "rtx3090", Ok(80)),
            ("// x\n.version 7.1\n.target sm_80, debug\n", 11_010, "a100", Ok(71)),
            (".version 8.7\n.target sm_86\n", 12_080, "rtx3090", Ok(87)),
            (".version 9.5\n.target sm_80\n", 13_050, "h100", Ok(95)),
            (".version 9.5\n.target sm_80\n", 12_080, "h100", Err(222)),
            (".version 8.8\n.target sm_80\n", 12_080, "h100", Err(222)),
            (".version 8.0\n.target sm_89\n", 12_080, "rtx3090", Err(218)),
            (".version 8.0\n.target sm_90a\n", 12_080, "h100", Ok(80)),
            (".version 8.0\n.target sm_80a\n", 12_080, "h100", Err(218)),
            (".version 8.0\n", 12_080, "h100", Err(218)),
            ("hello", 12_080, "h100", Err(218)),
        ] {
            let profile = Profile::find(profile).expect("known");
            let settings = Settings { profile, driver, ..Settings::default() };
            let result = check_header(header, &settings).map_err(|(code, _)| code.0);
            assert_eq!(result, expected, "{header}");
        }
    }

    #[test]
    fn images_are_told_apart() {
        assert_eq!(Image::of(*b"\x7fELF"), Image::Elf);
        assert_eq!(Image::of(0xBA55_ED50u32.to_le_bytes()), Image::FatBinary);
        assert_eq!(Image::of(0x4662_43B1u32.to_le_bytes()), Image::FatBinary);
        assert_eq!(Image::of(*b".ver"), Image::Text);
    }
}
