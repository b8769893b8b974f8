// The schematic: the document that says how a Talos image is customized. Its identifier is the
// SHA-256 of its canonical YAML, so the order and names of the fields below are part of the format
// (image-factory pkg/schematic, version 1).

package factory

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"gopkg.in/yaml.v3"
)

// Schematic is an image's customization.
type Schematic struct {
	Owner         string        `yaml:"owner,omitempty"`
	Overlay       Overlay       `yaml:"overlay,omitempty"`
	Customization Customization `yaml:"customization"`
}

// Overlay is what a single-board computer needs on top.
type Overlay struct {
	Image   string         `yaml:"image"`
	Name    string         `yaml:"name"`
	Options map[string]any `yaml:"options,omitempty"`
}

// Customization is what differs from the plain image.
type Customization struct {
	EmbeddedMachineConfiguration string           `yaml:"embeddedMachineConfiguration,omitempty"`
	ExtraKernelArgs              []string         `yaml:"extraKernelArgs,omitempty"`
	Meta                         []MetaValue      `yaml:"meta,omitempty"`
	SystemExtensions             SystemExtensions `yaml:"systemExtensions,omitempty"`
	Bootloader                   string           `yaml:"bootloader,omitempty"`
	SecureBoot                   SecureBoot       `yaml:"secureboot,omitempty"`
	DiskImage                    DiskImage        `yaml:"diskImage,omitempty"`
}

// MetaValue is an entry of the META partition.
type MetaValue struct {
	Key   uint8  `yaml:"key"`
	Value string `yaml:"value"`
}

// SystemExtensions are the extensions built into the image.
type SystemExtensions struct {
	OfficialExtensions []string `yaml:"officialExtensions,omitempty"`
}

// SecureBoot is the image's secure boot customization.
type SecureBoot struct {
	EnrollKeys                   string `yaml:"enrollKeys,omitempty"`
	IncludeWellKnownCertificates bool   `yaml:"includeWellKnownCertificates,omitempty"`
}

// DiskImage is the image's disk geometry.
type DiskImage struct {
	SectorSize uint `yaml:"sectorSize,omitempty"`
}

// Parse reads a schematic and refuses unknown fields, as the factory does.
func Parse(document []byte) (*Schematic, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(document))
	decoder.KnownFields(true)
	var schematic Schematic
	if err := decoder.Decode(&schematic); errors.Is(err, io.EOF) {
		return nil, errors.New("the schematic is empty; the plain image's is \"customization: {}\"")
	} else if err != nil {
		return nil, err
	}
	if schematic.Owner != "" {
		return nil, errors.New("owner field is only supported in Enterprise edition")
	}
	return &schematic, nil
}

// Canonical is the text that identifies the schematic.
func (s *Schematic) Canonical() ([]byte, error) {
	canonical, err := yaml.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("schematic: %w", err)
	}
	return canonical, nil
}

// ID is the schematic's identifier: 64 hexadecimal digits.
func (s *Schematic) ID() (string, error) {
	canonical, err := s.Canonical()
	if err != nil {
		return "", err
	}
	return identifier(canonical), nil
}
