package notify

import (
	"embed"
	"fmt"
	"strconv"
	"strings"
	"text/template"
	"time"

	"tollgate/internal/money"
)

//go:embed templates/*.txt
var templateFiles embed.FS

// Languages are those every text exists in.
var Languages = []string{"zh", "en"}

// Text is a message in one language.
type Text struct {
	Subject string `json:"subject"` // one line
	Body    string `json:"body"`    // plain text
}

// beijing is the zone of times in texts; it is always printed.
var beijing = time.FixedZone("UTC+8", 8*60*60)

// templates are parsed once, by kind and language.
var templates = parse()

func parse() map[string]*template.Template {
	all := make(map[string]*template.Template)
	for _, k := range Kinds {
		for _, lang := range Languages {
			name := k.Name + "." + lang
			b, err := templateFiles.ReadFile("templates/" + name + ".txt")
			if err != nil {
				panic("notify: " + err.Error()) // seen by the first test
			}
			all[name] = template.Must(template.New(name).Option("missingkey=error").Funcs(funcs(lang)).Parse(string(b)))
		}
	}
	return all
}

// words of the texts that depend on a value.
var words = map[string]map[string]string{
	"zh": {
		"call": "次", "token": "Token", "input_token": "输入 Token", "output_token": "输出 Token", "image": "张", "second": "秒", "character": "字符",
		"off": "未开启", "on": "已开启", "tried_ok": "已执行", "tried_failed": "已尝试但失败，详见资源详情",
		"BALANCE_INSUFFICIENT": "余额不足。充值后自动恢复。", "SPEC_OFFLINE": "商家已下架该规格，请重新设置。", "PRICE_CHANGED": "商家已修改价格，请确认新价格后重新设置。",
		"PURCHASE_RESTRICTED": "该规格已设购买限制，请重新设置。", "AGENCY_MISSING": "缺少委托授权。重新授权后自动恢复。", "SPEC_NOT_ELIGIBLE": "该规格为 0 元或限购规格，请选择正式规格。",
		"AGREEMENT_UPDATED": "协议已更新，请重新同意。", "ACCOUNT_FROZEN": "账户已冻结。", "CAP_REACHED": "已达到本月自动复购上限。", "DAILY_CAP": "已达到每日自动复购次数上限。", "INTERNAL": "系统内部错误，我们会自动重试。",
	},
	"en": {
		"call": "calls", "token": "tokens", "input_token": "input tokens", "output_token": "output tokens", "image": "images", "second": "seconds", "character": "characters",
		"off": "off", "on": "on", "tried_ok": "done", "tried_failed": "tried and failed, see the resource's details",
		"BALANCE_INSUFFICIENT": "the balance is too low. It resumes by itself after a top-up.", "SPEC_OFFLINE": "the seller withdrew the plan. Set it up again.", "PRICE_CHANGED": "the seller changed the price. Confirm the new one and set it up again.",
		"PURCHASE_RESTRICTED": "the plan may not be bought by everybody any more. Set it up again.", "AGENCY_MISSING": "the agency is missing. It resumes by itself once you grant it again.", "SPEC_NOT_ELIGIBLE": "the plan is free or limited. Choose a regular one.",
		"AGREEMENT_UPDATED": "the agreement was updated. Agree to it again.", "ACCOUNT_FROZEN": "the account is frozen.", "CAP_REACHED": "the monthly cap on auto-repurchase is reached.", "DAILY_CAP": "the daily number of repurchases is reached.", "INTERNAL": "an error of ours. We try again.",
	},
}

func funcs(lang string) template.FuncMap {
	word := func(key string) string {
		if w, ok := words[lang][key]; ok {
			return w
		}
		return key
	}
	return template.FuncMap{
		"yuan":       func(micro int64) string { return "¥" + money.Amount(micro).String() },
		"num":        group,
		"unit":       word,
		"reason":     word,
		"repurchase": word,
		"when": func(text string) (string, error) {
			at, err := time.Parse(time.RFC3339, text)
			if err != nil {
				return "", err
			}
			return at.In(beijing).Format("2006-01-02 15:04 (UTC+8)"), nil
		},
	}
}

// group writes n with a comma between thousands.
func group(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// render makes the texts of a message of a kind. Numbers in data are int64,
// instants RFC 3339; a variable that the template needs and data lacks is an
// error.
func render(kind, lang string, data map[string]any) (Text, error) {
	t, ok := templates[kind+"."+lang]
	if !ok {
		return Text{}, fmt.Errorf("notify: no template for %s in %s", kind, lang)
	}
	var b strings.Builder
	if err := t.Execute(&b, data); err != nil {
		return Text{}, fmt.Errorf("notify: text of %s: %w", kind, err)
	}
	subject, body, _ := strings.Cut(b.String(), "\n\n")
	// What a seller or buyer named something must not become another header.
	subject = strings.Join(strings.Fields(subject), " ")
	return Text{Subject: subject, Body: strings.TrimRight(body, "\n")}, nil
}
