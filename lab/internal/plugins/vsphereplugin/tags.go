package vsphereplugin

// Tag categories and tags.

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vapi/tags"
)

// vCenter wants the kinds of objects with this prefix and gives them back without.
const kindPrefix = "urn:vim25:"

var taggable = []string{"Folder", "ClusterComputeResource", "Datacenter", "Datastore", "StoragePod",
	"DistributedVirtualPortgroup", "DistributedVirtualSwitch", "VmwareDistributedVirtualSwitch", "HostSystem",
	"com.vmware.content.Library", "com.vmware.content.library.Item", "HostNetwork", "Network", "OpaqueNetwork",
	"ResourcePool", "VirtualApp", "VirtualMachine"}

func tagCategory() resource {
	return resource{
		token: "vsphere:index/tagCategory:TagCategory",
		fields: []field{
			{name: "name", kind: text, required: true},
			{name: "description", kind: text},
			{name: "cardinality", kind: text, required: true, oneOf: []string{"SINGLE", "MULTIPLE"}},
			{name: "associableTypes", kind: textSet, required: true},
		},
		autoName: true,
		create: func(ctx context.Context, vc *vcenter, a attributes) (string, error) {
			category, err := categoryOf(a)
			if err != nil {
				return "", err
			}
			id, err := tags.NewManager(vc.rest).CreateCategory(ctx, category)
			if err != nil {
				return "", fmt.Errorf("could not create category: %w", err)
			}
			return id, nil
		},
		read: func(ctx context.Context, vc *vcenter, id string, prior attributes) (attributes, error) {
			c, err := tags.NewManager(vc.rest).GetCategory(ctx, id)
			if isGone(err) {
				return nil, errGone
			} else if err != nil {
				return nil, err
			}
			out := prior.clone()
			out["name"], out["description"], out["cardinality"] = c.Name, c.Description, c.Cardinality
			out["associableTypes"] = listOf(c.AssociableTypes)
			return out, nil
		},
		update: func(ctx context.Context, vc *vcenter, id string, old, wanted attributes) error {
			if gone := without(old.texts("associableTypes"), wanted.texts("associableTypes")); len(gone) > 0 {
				return fmt.Errorf("cannot remove type %q (removal of associable types is not supported)", gone[0])
			}
			category, err := categoryOf(wanted)
			if err != nil {
				return err
			}
			category.ID = id
			if err := tags.NewManager(vc.rest).UpdateCategory(ctx, category); err != nil {
				return fmt.Errorf("could not update category with id %q: %w", id, err)
			}
			return nil
		},
		delete: func(ctx context.Context, vc *vcenter, id string, _ attributes) error {
			if err := tags.NewManager(vc.rest).DeleteCategory(ctx, &tags.Category{ID: id}); err != nil {
				return fmt.Errorf("could not delete category with id %q: %w", id, err)
			}
			return nil
		},
		find: func(ctx context.Context, vc *vcenter, given string, _ attributes) (string, error) {
			return categoryByName(ctx, vc, given)
		},
	}
}

func categoryOf(a attributes) (*tags.Category, error) {
	c := &tags.Category{Name: a.text("name"), Description: a.text("description"), Cardinality: a.text("cardinality")}
	for _, kind := range a.texts("associableTypes") {
		if !slices.Contains(taggable, kind) {
			return nil, fmt.Errorf("%s is not a valid associable_type, valid types include: %v", kind, taggable)
		}
		c.AssociableTypes = append(c.AssociableTypes, kindPrefix+kind)
	}
	return c, nil
}

func categoryByName(ctx context.Context, vc *vcenter, name string) (string, error) {
	all, err := tags.NewManager(vc.rest).GetCategories(ctx)
	if err != nil {
		return "", fmt.Errorf("could not get category for name %q: %w", name, err)
	}
	for _, c := range all {
		if c.Name == name {
			return c.ID, nil
		}
	}
	return "", fmt.Errorf("category name %q not found", name)
}

func tag() resource {
	return resource{
		token: "vsphere:index/tag:Tag",
		fields: []field{
			{name: "name", kind: text, required: true},
			{name: "description", kind: text},
			{name: "categoryId", kind: text, required: true, replaces: true},
		},
		autoName: true,
		create: func(ctx context.Context, vc *vcenter, a attributes) (string, error) {
			if !strings.HasPrefix(a.text("categoryId"), "urn:vmomi") {
				return "", fmt.Errorf("error: ‘category_id’ must start with ‘urn:vmomi’. you can use `vsphere_tag_category` " +
					"data source to get the category ID")
			}
			id, err := tags.NewManager(vc.rest).CreateTag(ctx, &tags.Tag{Name: a.text("name"),
				Description: a.text("description"), CategoryID: a.text("categoryId")})
			if err != nil {
				return "", fmt.Errorf("could not create tag: %w", err)
			}
			return id, nil
		},
		read: func(ctx context.Context, vc *vcenter, id string, prior attributes) (attributes, error) {
			t, err := tags.NewManager(vc.rest).GetTag(ctx, id)
			if isGone(err) {
				return nil, errGone
			} else if err != nil {
				return nil, err
			}
			out := prior.clone()
			out["name"], out["description"], out["categoryId"] = t.Name, t.Description, t.CategoryID
			return out, nil
		},
		update: func(ctx context.Context, vc *vcenter, id string, _, wanted attributes) error {
			err := tags.NewManager(vc.rest).UpdateTag(ctx,
				&tags.Tag{ID: id, Name: wanted.text("name"), Description: wanted.text("description")})
			if err != nil {
				return fmt.Errorf("could not update tag with id %q: %w", id, err)
			}
			return nil
		},
		delete: func(ctx context.Context, vc *vcenter, id string, _ attributes) error {
			if err := tags.NewManager(vc.rest).DeleteTag(ctx, &tags.Tag{ID: id}); err != nil {
				return fmt.Errorf("could not delete tag with id %q: %w", id, err)
			}
			return nil
		},
		find: findTag,
	}
}

// findTag takes {"category_name": ..., "tag_name": ...}: names may hold any character, so there is no separator.
func findTag(ctx context.Context, vc *vcenter, given string, _ attributes) (string, error) {
	var where struct {
		Category string `json:"category_name"`
		Tag      string `json:"tag_name"`
	}
	if err := json.Unmarshal([]byte(given), &where); err != nil {
		return "", err
	}
	category, err := categoryByName(ctx, vc, where.Category)
	if err != nil {
		return "", err
	}
	all, err := tags.NewManager(vc.rest).GetTagsForCategory(ctx, category)
	if err != nil {
		return "", fmt.Errorf("could not get tag for name %q: %w", where.Tag, err)
	}
	for _, t := range all {
		if t.Name == where.Tag {
			return t.ID, nil
		}
	}
	return "", fmt.Errorf("tag name %q not found in category ID %q", where.Tag, category)
}
