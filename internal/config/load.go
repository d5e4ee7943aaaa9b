package config

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
)

const envPrefix = "TOLLGATE_"

// Input says where values come from.
type Input struct {
	File    string            // YAML; empty: none
	Environ []string          // as of os.Environ
	Flags   map[string]string // path of a key -> value, only those that were given
}

// Load returns the configuration, checked. Its errors name the key and where it
// was written.
func Load(in Input) (Config, error) {
	k := koanf.New(".")
	paths := leaves()
	if in.File != "" {
		if err := k.Load(file.Provider(in.File), yaml.Parser()); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return Config{}, fmt.Errorf("configuration file %s is not there: check --config", in.File)
			}
			return Config{}, fmt.Errorf("configuration file %s: %w", in.File, err)
		}
		for _, key := range k.Keys() {
			if !slices.Contains(paths, key) {
				return Config{}, unknown(in.File, key, paths)
			}
		}
	}
	env := make(map[string]any)
	for _, kv := range in.Environ {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) || foreignEnv(name) {
			continue
		}
		i := slices.IndexFunc(paths, func(p string) bool { return EnvName(p) == name })
		if i < 0 {
			return Config{}, unknownEnv(name, paths)
		}
		env[paths[i]] = value
	}
	if err := k.Load(confmap.Provider(env, "."), nil); err != nil {
		return Config{}, err
	}
	flags := make(map[string]any, len(in.Flags))
	for path, v := range in.Flags {
		flags[path] = v
	}
	if err := k.Load(confmap.Provider(flags, "."), nil); err != nil {
		return Config{}, err
	}
	cfg := Default()
	err := k.UnmarshalWithConf("", &cfg, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		Result: &cfg, ErrorUnused: true, WeaklyTypedInput: true, TagName: "koanf",
		DecodeHook: mapstructure.ComposeDecodeHookFunc(
			durationHook, timeHook, scalarToText,
			mapstructure.StringToSliceHookFunc(","),
			mapstructure.TextUnmarshallerHookFunc(),
		),
	}})
	if err != nil {
		return Config{}, decodeError(err)
	}
	return cfg, cfg.Validate()
}

// decodeError turns mapstructure's report into one line.
func decodeError(err error) error {
	text := strings.NewReplacer("\n", " ", "decoding failed due to the following error(s):", "").Replace(err.Error())
	return fmt.Errorf("configuration: %s", strings.Join(strings.Fields(text), " "))
}

// durationHook reads "10s"; a bare number has no unit and is refused.
func durationHook(_, to reflect.Type, v any) (any, error) {
	if to != reflect.TypeFor[time.Duration]() {
		return v, nil
	}
	if s, ok := v.(string); ok {
		d, err := time.ParseDuration(s)
		if err != nil {
			return nil, fmt.Errorf("%q is not a duration: write it as in 500ms, 10s or 5m", s)
		}
		return d, nil
	}
	return nil, fmt.Errorf("%v is not a duration: write it with its unit, as in 10s", v)
}

func timeHook(_, to reflect.Type, v any) (any, error) {
	if to != reflect.TypeFor[time.Time]() {
		return v, nil
	}
	switch t := v.(type) {
	case time.Time:
		return t, nil
	case string:
		at, err := time.Parse(time.RFC3339, t)
		if err != nil {
			return nil, fmt.Errorf("%q is not an instant: write it as in 2025-07-16T00:00:00+08:00", t)
		}
		return at, nil
	}
	return nil, fmt.Errorf("%v is not an instant: write it as in 2025-07-16T00:00:00+08:00", v)
}

// scalarToText lets YAML numbers stand for sizes and secrets.
func scalarToText(_, to reflect.Type, v any) (any, error) {
	if to == reflect.TypeFor[Size]() || to == reflect.TypeFor[Secret]() {
		switch v.(type) {
		case int, int64, float64, bool:
			return fmt.Sprint(v), nil
		}
	}
	return v, nil
}

// EnvName is the environment variable of a key.
func EnvName(path string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// foreignEnv reports variables that begin like ours but are not keys: those of
// `tollgate sign`, the clock of tests, and the ones Kubernetes makes for a service named tollgate.
func foreignEnv(name string) bool {
	rest := strings.TrimPrefix(name, envPrefix)
	switch rest {
	case "APP_KEY", "APP_SECRET", "APP_CODE", "API_KEY", "CONFIG", "PORT", "TEST_CLOCK_FILE":
		return true
	}
	return strings.HasPrefix(rest, "PORT_") || strings.HasPrefix(rest, "SERVICE_")
}

// leaves lists the paths of all keys.
func leaves() []string {
	var out []string
	walk(reflect.TypeFor[Config](), "", func(path string, _ []int) { out = append(out, path) })
	sort.Strings(out)
	return out
}

func walk(t reflect.Type, prefix string, visit func(path string, index []int)) {
	walkAt(t, prefix, nil, visit)
}

func walkAt(t reflect.Type, prefix string, at []int, visit func(string, []int)) {
	for i := range t.NumField() {
		f := t.Field(i)
		path := prefix + f.Tag.Get("koanf")
		index := append(slices.Clone(at), i)
		if f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[time.Time]() && f.Type != reflect.TypeFor[Secret]() {
			walkAt(f.Type, path+".", index, visit)
			continue
		}
		visit(path, index)
	}
}

func unknown(where, key string, paths []string) error {
	return fmt.Errorf("%s: the key %q does not exist; did you mean %q? `tollgate config print` lists all keys", where, key, nearest(key, paths))
}

func unknownEnv(name string, paths []string) error {
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = EnvName(p)
	}
	return fmt.Errorf("environment: the variable %s does not exist; did you mean %s? `tollgate config print` lists all keys", name, nearest(name, names))
}

// nearest returns the candidate with the fewest edits to s.
func nearest(s string, candidates []string) string {
	best, at := 1<<30, ""
	for _, c := range candidates {
		if d := distance(s, c); d < best {
			best, at = d, c
		}
	}
	return at
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := prev
			if a[i] != b[j] {
				cost = 1 + min(prev, row[j], row[j+1])
			}
			prev, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// Print writes every key with its value, secrets masked, as YAML.
func Print(c Config) string {
	var b strings.Builder
	printStruct(&b, reflect.ValueOf(c), "")
	return b.String()
}

func printStruct(b *strings.Builder, v reflect.Value, indent string) {
	for i := range v.NumField() {
		f, name := v.Field(i), v.Type().Field(i).Tag.Get("koanf")
		switch x := f.Interface().(type) {
		case time.Time:
			fmt.Fprintf(b, "%s%s: %s\n", indent, name, x.Format(time.RFC3339))
		case Secret, Size, time.Duration:
			fmt.Fprintf(b, "%s%s: %q\n", indent, name, fmt.Sprint(x))
		case string:
			fmt.Fprintf(b, "%s%s: %q\n", indent, name, x)
		case []string:
			fmt.Fprintf(b, "%s%s: [%s]\n", indent, name, strings.Join(x, ", "))
		default:
			if f.Kind() == reflect.Struct {
				fmt.Fprintf(b, "%s%s:\n", indent, name)
				printStruct(b, f, indent+"  ")
				continue
			}
			fmt.Fprintf(b, "%s%s: %v\n", indent, name, x)
		}
	}
}
